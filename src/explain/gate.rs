//! The codes that `lock` and `build` give, from the lock alone.

use super::{
    Entry,
    Origin::{GateError, GateWarning, Probe},
};

const DRIVERS: &str =
    "NVIDIA, CUDA Toolkit release notes (driver tables) and CUDA Compatibility guide";

pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        code: "driver-too-old",
        origins: &[GateError, Probe],
        what: "the NVIDIA driver is too old for the CUDA of the environment",
        why: "CUDA's libraries come with the environment, the driver with the machine; each CUDA major version has a \
              lowest driver (11: 450.80.02, 12: 525.60.13, 13: 580), below which no program of it starts",
        fix: "update the host's NVIDIA driver, or build with an older CUDA (CUDA 12 needs driver 525.60.13, CUDA 13 \
              needs 580)",
        source: DRIVERS,
    },
    Entry {
        code: "driver-below-cuda",
        origins: &[GateWarning],
        what: "the NVIDIA driver runs the environment's CUDA only by minor-version compatibility",
        why: "a driver of the same CUDA major version runs compiled code, but cannot compile newer PTX at run time, \
              nor offer features that came with the toolkit's own driver",
        fix: "update the driver to the toolkit's own or newer, or build with a CUDA that is not newer than the \
              driver's; where all code is compiled for the GPU, nothing need be done",
        source: DRIVERS,
    },
    Entry {
        code: "driver-unknown",
        origins: &[GateWarning],
        what: "the CUDA of the environment is newer than this imgbuild's table of drivers",
        why: "the lowest driver of a CUDA version is read from a table; a later CUDA needs at least what the last \
              entry needs, and how much more is not known here",
        fix: "look the driver up in the CUDA Toolkit release notes, and update imgbuild",
        source: DRIVERS,
    },
    Entry {
        code: "arch",
        origins: &[GateError, Probe],
        what: "the environment's torch has no code for this GPU",
        why: "torch is compiled for a list of architectures; code runs on GPUs of the same major version and the same \
              or a later minor one. PTX, where a build has some, does not count here: it is compiled at run time, and \
              PyTorch itself calls such GPUs not compatible",
        fix: "sm_90 needs torch 2.0.1 and CUDA 11.8 or later, sm_100 and sm_120 \
              need torch 2.7 and CUDA 12.8 or later; sm_70 and older ones need a build for CUDA 12.6, sm_37 one for \
              CUDA 11.8",
        source: "PyTorch's build scripts (TORCH_CUDA_ARCH_LIST), torch.cuda.get_arch_list(); NVIDIA, CUDA C++ \
                 Programming Guide, Compute Capabilities",
    },
    Entry {
        code: "cpu-torch",
        origins: &[GateError, Probe],
        what: "the environment has a CPU build of torch, but is meant for GPUs",
        why: "a solver that is not told of a GPU picks the CPU build, and pip's CPU index has nothing else; GPUs are \
              meant when --gpu, --driver or --cuda is given, imgbuild.yaml's probe: asks for GPUs, or the lock has \
              CUDA's libraries",
        fix: "ask for a CUDA build (conda-forge: pytorch-gpu; pytorch channel: pytorch-cuda=12.4), lock and build again",
        source: "conda-forge docs, Installing CUDA-enabled packages; pytorch.org, Previous versions",
    },
    Entry {
        code: "cuda-mixed",
        origins: &[GateError, Probe],
        what: "packages for different CUDA major versions are in one environment",
        why: "libraries of two CUDA majors are loaded into one process: a torch for CUDA 11 beside cuDNN for CUDA 12, \
              or conda's CUDA beside a wheel's of another major; symbols clash or libraries are not found",
        fix: "take all of them for one CUDA major: pin cuda-version (conda) and the wheels' index or suffix (cu118, \
              -cu12) to the same",
        source: "NVIDIA, CUDA Compatibility guide",
    },
    Entry {
        code: "torch-twice",
        origins: &[GateError],
        what: "torch comes from conda and from pip",
        why: "both are installed to site-packages/torch; what is left is a mixture of the two",
        fix: "ask for torch in one place: drop it from `pip:`, or drop pytorch and what needs it from the conda \
              packages",
        source: "conda docs, Using pip in an environment",
    },
    Entry {
        code: "cudnn-twice",
        origins: &[GateWarning],
        what: "two versions of cuDNN are in the environment",
        why: "conda's cuDNN and a wheel's are found over different paths; which one is loaded depends on what is \
              imported first",
        fix: "pin both to one version, or take torch and cuDNN from one place",
        source: "NVIDIA, cuDNN support matrix",
    },
    Entry {
        code: "python-eol",
        origins: &[GateWarning],
        what: "the environment's Python gets no security fixes any more",
        why: "each Python version is maintained for five years, then ends",
        fix: "ask for a newer Python, where torch and the other packages have builds for it",
        source: "Python Developer's Guide, Status of Python versions",
    },
    Entry {
        code: "channel-frozen",
        origins: &[GateWarning],
        what: "packages come from a channel that gets nothing new",
        why: "the channel `pytorch` ended with 2.5.1 in October 2024; newer versions are on conda-forge and PyPI only",
        fix: "take pytorch from conda-forge (pytorch-gpu, cuda-version=12.9), or from PyPI under `pip:`",
        source: "pytorch/pytorch issue 138506, Deprecating PyTorch's official Anaconda channel",
    },
    Entry {
        code: "channel-licence",
        origins: &[GateWarning],
        what: "packages come from Anaconda's `defaults`",
        why: "the channel's terms ask organisations of 200 people or more for a paid licence, also inside images",
        fix: "use conda-forge, with `nodefaults` in `channels:`",
        source: "Anaconda, Terms of Service",
    },
];
