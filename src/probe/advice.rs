//! The way out of a failure, by its code.

/// What to do about a code of the probe; `None` when only the message can tell.
pub(super) fn fix(code: &str) -> Option<&'static str> {
    let text = match code {
        "cpu-torch" => {
            "the environment has a CPU build of torch: ask for a CUDA build (conda-forge: \
             pytorch-gpu; pytorch channel: pytorch-cuda=12.4), lock and build again"
        }
        "no-nccl" | "no-gloo" | "no-distributed" => {
            "this build of torch lacks torch.distributed: take one from conda-forge or the \
             pytorch channel, lock and build again"
        }
        "no-cuda" => {
            "see whether the container gets a GPU at all: docker run --rm --gpus all IMAGE nvidia-smi"
        }
        "driver-too-old" => {
            "update the host's NVIDIA driver, or build with an older CUDA (CUDA 12 needs driver \
             525.60.13, CUDA 13 needs 580)"
        }
        "too-few-gpus" => "ask for fewer with --gpus, or see `nvidia-smi -L` on the daemon's host",
        "arch" => {
            "this torch has no code for this GPU: sm_90 needs torch 2.0.1 and CUDA 11.8 or later, \
             sm_100 and sm_120 need torch 2.7 and CUDA 12.8 or later"
        }
        "same-gpu" => "unset CUDA_VISIBLE_DEVICES in the image; each rank needs a GPU of its own",
        "shm" => "give more shared memory: --shm-size (and --shm-size in your own docker run)",
        "oom" => "free the GPUs' memory: see `nvidia-smi` on the host for other processes",
        "memory" => "give the container or the machine more memory, or run fewer ranks",
        "rendezvous" => {
            "the ranks do not find each other: see whether the container's own host name resolves \
             and loopback is open"
        }
        "nccl" | "stall" => {
            "run it with NCCL_DEBUG=INFO in the image's environment; when GPUs hang over PCIe, try \
             NCCL_P2P_DISABLE=1 and turn off ACS in the BIOS"
        }
        "slow-scaling" => {
            "see over what the GPUs talk (the report's bus bandwidth, transports and topology): \
             NVLink or P2P should be used, not SHM or NET; see also whether the CPUs keep up"
        }
        "timeout" => "give it longer with --timeout, or see which step it stopped in",
        "bad-env" => "remove the variable from the image's environment",
        _ => return None,
    };
    Some(text)
}
