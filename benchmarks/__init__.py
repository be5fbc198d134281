"""Each promise of the project as a number, beside the number of what people do without it, from the same run."""
