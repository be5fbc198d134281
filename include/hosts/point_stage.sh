# point_stage.sh DATA RESTORED ASIDE: how far point_swap.sh has come: "before", "between" (its two moves), "after", or "gone" when
# there is no copy to put in. Changes nothing.
if [ -d "$2" ]; then
  if [ -d "$1" ]; then echo before; else echo between; fi
elif [ -d "$1" ] && [ -d "$3" ]; then
  echo after
else
  echo gone
fi
