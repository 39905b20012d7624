#!/usr/bin/env bash
# One search on machines of a Slurm cluster: sbatch cluster/slurm.sh space.py [options of search]
# Submit it from a folder that every machine sees. Run again, it continues.
#SBATCH --job-name=nas-theseus
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=12:00:00
set -euo pipefail

space=${1:?usage: sbatch cluster/slurm.sh space.py [options of nas-theseus search]}
shift
port=$((20000 + SLURM_JOB_ID % 20000))
mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${machines[0]}

# Others share the machines: Ray lets in who has this job's token, and nobody else.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/.ray-token-$SLURM_JOB_ID"
(umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

start() { # MACHINE OPTIONS…: Ray on one machine, for as long as the job runs
    local machine=$1
    shift
    srun --nodes=1 --ntasks=1 --nodelist="$machine" ray start --block \
        --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" \
        --disable-usage-stats "$@" &
}

start "$head" --head --port="$port" --dashboard-host=127.0.0.1
until ray status --address="$head:$port" > /dev/null 2>&1; do sleep 2; done
for machine in "${machines[@]:1}"; do start "$machine" --address="$head:$port"; done
python3 -c '
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(2)
' "$head:$port" "${#machines[@]}"

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" nas-theseus search "$space" \
    --address="$head:$port" --storage "$PWD/theseus" "$@"
