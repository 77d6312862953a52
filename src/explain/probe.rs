//! The codes that only the probe gives, from a run.

use super::{Entry, Origin::Probe};

const ORIGINS: &[super::Origin] = &[Probe];
const TORCH: &str = "PyTorch docs, torch.distributed";
const NCCL: &str = "NVIDIA, NCCL user guide, Troubleshooting";
const DOCKER: &str = "Docker docs, Resource constraints; NVIDIA Container Toolkit docs";
const PROBE: &str = "templates/ddp_probe.py, which is what the probe runs";

const NO_DISTRIBUTED: &str = "this build of torch lacks torch.distributed: take one from conda-forge or the pytorch \
                              channel, lock and build again";
const COLLECTIVES: &str = "run it with NCCL_DEBUG=INFO in the image's environment; when GPUs hang over PCIe, try \
                           NCCL_P2P_DISABLE=1 and turn off ACS in the BIOS";

const fn entry(
    code: &'static str,
    what: &'static str,
    why: &'static str,
    fix: &'static str,
    source: &'static str,
) -> Entry {
    Entry {
        code,
        origins: ORIGINS,
        what,
        why,
        fix,
        source,
    }
}

pub(super) const ENTRIES: &[Entry] = &[
    entry(
        "no-torch",
        "torch cannot be imported",
        "the environment has no torch for its Python, or one of its libraries is missing",
        "add pytorch to the dependencies in env.yml, and build again",
        PROBE,
    ),
    entry(
        "no-distributed",
        "torch is built without torch.distributed",
        "some builds leave it out",
        NO_DISTRIBUTED,
        TORCH,
    ),
    entry(
        "no-gloo",
        "torch is built without gloo",
        "some builds leave it out",
        NO_DISTRIBUTED,
        TORCH,
    ),
    entry(
        "no-nccl",
        "torch is built without NCCL",
        "some builds leave it out",
        NO_DISTRIBUTED,
        TORCH,
    ),
    entry(
        "no-runtime",
        "the daemon cannot give GPUs to containers",
        "it has neither an NVIDIA runtime nor a CDI device of NVIDIA's",
        "install nvidia-container-toolkit on the daemon's host, then: sudo nvidia-ctk runtime configure --runtime=docker \
         && sudo systemctl restart docker",
        DOCKER,
    ),
    entry(
        "gpu-hang",
        "one GPU by itself does not finish a simple kernel",
        "a call into CUDA hangs: the GPU fell off the bus, or the driver waits for it",
        "see dmesg for Xid messages and `nvidia-smi` for the GPU's state on the host; reset the GPU or restart the host",
        "NVIDIA, GPU Debug Guidelines; XID Errors",
    ),
    entry(
        "no-cuda",
        "torch finds no usable GPU",
        "the container was given none, or the driver does not answer",
        "see whether the container gets a GPU at all: docker run --rm --gpus all IMAGE nvidia-smi",
        DOCKER,
    ),
    entry(
        "too-few-gpus",
        "fewer GPUs are visible than ranks were asked for",
        "the host has fewer, or CUDA_VISIBLE_DEVICES hides some",
        "ask for fewer with --gpus, or see `nvidia-smi -L` on the daemon's host",
        DOCKER,
    ),
    entry(
        "same-gpu",
        "two ranks share one GPU",
        "a CUDA_VISIBLE_DEVICES in the image gives every rank the same one",
        "unset CUDA_VISIBLE_DEVICES in the image; each rank needs a GPU of its own",
        TORCH,
    ),
    entry(
        "shm",
        "shared memory ran out",
        "/dev/shm is 64 MB unless asked otherwise; data loaders and NCCL need more",
        "give more shared memory: --shm-size (and --shm-size in your own docker run)",
        DOCKER,
    ),
    entry(
        "oom",
        "a GPU's memory ran out",
        "the probe needs little; other processes hold the rest",
        "free the GPUs' memory: see `nvidia-smi` on the host for other processes",
        PROBE,
    ),
    entry(
        "memory",
        "the container's memory ran out",
        "the kernel killed the job at the container's or the machine's limit",
        "give the container or the machine more memory, or run fewer ranks",
        DOCKER,
    ),
    entry(
        "rendezvous",
        "the ranks do not find each other",
        "the first connection over TCP failed",
        "see whether the container's own host name resolves and loopback is open",
        TORCH,
    ),
    entry(
        "nccl",
        "NCCL failed",
        "the links between the GPUs, or NCCL_* variables in the image, are the usual reasons",
        COLLECTIVES,
        NCCL,
    ),
    entry(
        "stall",
        "a collective did not end",
        "a rank waits for data that never comes: often PCIe peer access behind ACS",
        COLLECTIVES,
        NCCL,
    ),
    entry(
        "p2p",
        "the GPUs hang when they talk to each other directly (P2P), and do not without it",
        "PCIe's access control services (ACS), or an IOMMU that translates, send astray what one GPU writes to another, \
         and NCCL waits for ever; over NVLink, NVIDIA's fabric manager that does not run does the same",
        "turn off ACS or the IOMMU (VT-d, AMD-Vi) in the BIOS, or boot the kernel with iommu=pt; ACS is on where \
         `sudo lspci -vvv | grep ACSCtl` shows SrcValid+; until then NCCL_P2P_DISABLE=1 in the environment goes around it, \
         and is slower",
        "NVIDIA, NCCL user guide, Troubleshooting, PCI Access Control Services",
    ),
    entry(
        "slow-scaling",
        "more ranks train hardly faster than fewer",
        "the GPUs talk over a slow path, or the CPUs do not keep up with them",
        "see over what the GPUs talk (the report's bus bandwidth, transports and topology): NVLink or P2P should be \
         used, not SHM or NET; see also whether the CPUs keep up",
        NCCL,
    ),
    entry(
        "timeout",
        "the job was stopped at its time limit",
        "it was slow, or hung outside of a collective",
        "give it longer with --timeout, or see which step it stopped in",
        PROBE,
    ),
    entry(
        "bad-env",
        "a variable in the image's environment breaks the job",
        "the job reads its own variables and torch's",
        "remove the variable from the image's environment",
        PROBE,
    ),
    entry(
        "worker-killed",
        "a data loader's worker was killed",
        "the kernel ended it, most often for memory",
        "give the container more memory and more shared memory (--shm-size)",
        DOCKER,
    ),
    entry(
        "peer-lost",
        "a rank lost its connection to another",
        "the other rank ended first; its own failure is the cause",
        "look at the other rank's failure in the report",
        PROBE,
    ),
    entry(
        "terminated",
        "a rank was stopped because another failed",
        "all ranks end when one does",
        "look at the other rank's failure in the report",
        PROBE,
    ),
    entry(
        "mismatch",
        "a result differs from the one that is known to be right",
        "a collective, a gradient or the parameters came out wrong, or the ranks disagree",
        "do not train here: test the GPUs' memory and links (dcgmi diag -r 3), and try another build of torch",
        PROBE,
    ),
    entry(
        "loss",
        "training did not lower the loss on a fixed batch",
        "arithmetic or the optimiser is wrong",
        "do not train here: test the GPUs' memory and links (dcgmi diag -r 3), and try another build of torch",
        PROBE,
    ),
    entry(
        "rank-missing",
        "a rank gave no result",
        "it crashed or was killed before it could say why",
        "see the end of stderr in the report, and dmesg on the daemon's host",
        PROBE,
    ),
    entry(
        "no-results",
        "the job gave no result at all",
        "Python or torch failed before the probe began",
        "see the end of stderr in the report",
        PROBE,
    ),
    entry(
        "wrong-job",
        "the job ran with other ranks or another backend than asked for",
        "variables in the image's environment replaced the probe's",
        "remove WORLD_SIZE and RANK from the image's environment",
        PROBE,
    ),
    entry(
        "bad-end",
        "every rank passed, but the job did not end well",
        "something failed while the processes closed down",
        "see the end of stderr in the report",
        PROBE,
    ),
    entry(
        "error",
        "something failed that has no code of its own",
        "the message is all that is known",
        "see the message and the end of stderr in the report",
        PROBE,
    ),
];
