#!/bin/bash
# Training on two machines: sbatch docs/machines/slurm.sh
# Its own time limit or a preemption ends it with a checkpoint, and it queues again to go on.
#SBATCH --job-name=unet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

RUN=${RUN:-cells}
CONFIG=${CONFIG:-train.toml}

port=$((20000 + SLURM_JOB_ID % 10000))
hosts=""
for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
  hosts+="\"$node:$port\","
done
export HOSTS=${hosts%,}

if [ -f "runs/$RUN/run.json" ]; then
  what=(--resume "runs/$RUN")
else
  what=(--config "$CONFIG" --set "name=$RUN")
fi

srun --kill-on-bad-exit=0 bash -c '
  task="{\"type\": \"worker\", \"index\": $SLURM_PROCID}"
  export TF_CONFIG="{\"cluster\": {\"worker\": [$HOSTS]}, \"task\": $task}"
  exec keras-unet train "$@"
' train "${what[@]}"
status=$?

if [ "$status" -eq 143 ]; then # SIGTERM: there is a checkpoint
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
