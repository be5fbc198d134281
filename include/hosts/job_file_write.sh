# job_file_write.sh WORK_DIR JOB NAME: standard input becomes a file of a job, or it stays as it was. Run as the job's owner.
case $2 in '' | */* | .*) fail "'$2' is no job" ;; esac
case $3 in '' | */* | .*) fail "'$3' is no name of a file" ;; esac
umask 077
mkdir -p "$1/$2"
write_atomically "$1/$2/$3" 600
