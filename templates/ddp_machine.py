"""What the machine and torch are, and whether they can do the job at all. See ddp_probe.py.

torch is imported here first and once: a second try at a broken torch can crash.
"""

import ctypes
import os
import platform
import socket
import warnings

from ddp_report import SHM, ProbeError, attempt, expect_equal, finite, shorten

# Set before torch is imported. What the user set of NCCL_* is never touched.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
OWN_NCCL_LOG = os.path.join(os.path.dirname(os.path.abspath(__file__)), "nccl.%p.log")
if not any(name.startswith("NCCL_DEBUG") for name in os.environ):  # tells the transport, and why it failed
    os.environ.update(NCCL_DEBUG="INFO", NCCL_DEBUG_SUBSYS="INIT,P2P,NET", NCCL_DEBUG_FILE=OWN_NCCL_LOG)
warnings.filterwarnings("ignore", message=".*(Failed to initialize NumPy|pynvml).*")

try:  # all of torch that the probe uses, so that ddp_probe's own imports can't fail
    import torch
    import torch.distributed as dist
    import torch.nn.parallel
    import torch.utils.data.distributed
except Exception as error:  # a broken torch fails in many ways: reported like any other check
    torch, IMPORT_ERROR = None, f"{type(error).__name__}: {error}"

CPU_NOTE = "CPU (gloo): proves the software path, not the GPUs"
STRAY = ("NCCL_", "TORCH_NCCL_", "GLOO_", "CUDA_", "NVIDIA_", "LD_LIBRARY_PATH", "LD_PRELOAD")
# Facts about an image, which change nothing.
HARMLESS = {"NCCL_VERSION", "CUDA_VERSION", "CUDA_HOME", "NVIDIA_PRODUCT_NAME", "NVIDIA_DRIVER_CAPABILITIES"}
HARMLESS |= {name for name in os.environ if name.startswith("NVIDIA_REQUIRE_")}
SET_BY_TORCHRUN = {"NCCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_ASYNC_ERROR_HANDLING"}


def driver_version():
    """NVIDIA's kernel driver as NVML tells it."""
    nvml, text = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.create_string_buffer(96)
    bad = nvml.nvmlInit_v2() or nvml.nvmlSystemGetDriverVersion(text, len(text))
    return None if bad else text.value.decode()


def gpu_identity(index):
    """(UUID, PCI bus id) from the CUDA driver: older torch versions tell neither."""
    cuda, device = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
    raw, bus = (ctypes.c_ubyte * 16)(), ctypes.create_string_buffer(32)
    get_uuid = getattr(cuda, "cuDeviceGetUuid_v2", cuda.cuDeviceGetUuid)  # v2: MIG slices too
    bad = cuda.cuDeviceGet(ctypes.byref(device), index) or get_uuid(raw, device)
    bad = bad or cuda.cuDeviceGetPCIBusId(bus, len(bus), device)
    if bad:
        raise ProbeError("error", f"the CUDA driver can't identify GPU {index} (error {bad})")
    text = bytes(raw).hex()
    parts = (text[:8], text[8:12], text[12:16], text[16:20], text[20:])
    return "GPU-" + "-".join(parts), bus.value.decode()


def shm_size():
    """(total, free) bytes of /dev/shm, zeros where there is none."""
    stat = attempt(os.statvfs, SHM)
    return (stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize) if stat else (0, 0)


def stray_variables(env):
    """Variables that change what CUDA, NCCL or the loader do, less those torchrun itself sets."""
    own = env.get("NCCL_DEBUG_FILE") == OWN_NCCL_LOG
    names = [name for name in sorted(env) if name.startswith(STRAY) and name not in HARMLESS]
    names = [name for name in names if not (own and name.startswith("NCCL_DEBUG"))]
    return {n: shorten(env[n], 200) for n in names if not (n in SET_BY_TORCHRUN and env[n] == "1")}


def nccl_version():
    """NCCL's version as dotted text."""
    version = torch.cuda.nccl.version()
    return ".".join(map(str, version)) if isinstance(version, tuple) else str(version)


def summary(run):
    """What rank 0 adds about the whole job: versions, machine, figures."""
    cuda = torch.version.cuda if torch is not None else None
    peers = run.peers or [{"hostname": socket.gethostname(), "gpu": run.gpu, "speed": None}]
    speeds = [peer["speed"] for peer in peers]
    return {
        "torch": str(torch.__version__) if torch is not None else None,
        "cuda": cuda,
        "cudnn": attempt(torch.backends.cudnn.version) if cuda else None,
        "nccl": attempt(nccl_version) if cuda else None,
        "driver": attempt(driver_version),
        "python": platform.python_version(),
        "gpus": [peer["gpu"]["name"] for peer in peers if peer["gpu"]],
        "hosts": sorted({peer["hostname"] for peer in peers}),
        "epochs": run.args.epochs,
        "samples_per_s": None if None in speeds else finite(sum(speeds), 1),
        "loss_first": run.figures["loss_first"],
        "loss_last": run.figures["loss_last"],
        "shm_total_bytes": shm_size()[0],
        "shm_free_bytes": shm_size()[1],
        "env": stray_variables(os.environ),
        **run.speed,
        "note": CPU_NOTE if run.args.backend == "gloo" else None,
    }


# The checks before the ranks meet


def check_torch(run):
    """Whether this torch can do the job at all; asks CUDA for nothing, since that can hang."""
    if torch is None:
        raise ProbeError("no-torch", f"torch can't be imported: {IMPORT_ERROR}")
    name = f"torch {torch.__version__}"
    if not dist.is_available():
        raise ProbeError("no-distributed", f"{name} is built without torch.distributed")
    if run.args.backend == "gloo":
        if not getattr(dist, "is_gloo_available", lambda: True)():
            raise ProbeError("no-gloo", f"{name} is built without gloo")
        return f"{name}, gloo"
    if torch.version.cuda is None:
        raise ProbeError("cpu-torch", f"{name} is a CPU-only build")
    if not dist.is_nccl_available():
        raise ProbeError("no-nccl", f"{name} is built without NCCL")
    return f"{name}, CUDA {torch.version.cuda}"


def require_gpus(need):
    """How many GPUs are visible; an error unless there are as many as ranks on this host."""
    name = f"torch {torch.__version__}"
    if not torch.cuda.is_available():
        try:
            torch.cuda.init()
            reason = "no CUDA device is visible"
        except Exception as exc:  # torch's own words: no driver, driver too old ...
            reason = str(exc)
        code = "driver-too-old" if "too old" in reason else "no-cuda"
        raise ProbeError(code, f"{name} finds no usable GPU: {reason}")
    have = torch.cuda.device_count()
    if have < need:
        raise ProbeError("too-few-gpus", f"{need} ranks on this host, {have} GPUs visible")
    return have


def check_device(run):
    """Choose this rank's device and run a kernel on it."""
    if run.args.backend == "gloo":
        run.device = torch.device("cpu")
    else:
        index = run.local_rank % torch.cuda.device_count()
        torch.cuda.set_device(index)
        run.device, props = torch.device("cuda", index), torch.cuda.get_device_properties(index)
        run.gpu = {"name": props.name, "uuid": None, "pci": None}
        run.gpu.update(capability=f"{props.major}.{props.minor}", total_memory=props.total_memory)
        require_arch(props.major, props.minor)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    ones = torch.ones(256, 256, device=run.device)
    expect_equal("matmul of ones", ones @ ones, torch.full_like(ones, 256))
    if run.gpu:
        run.gpu["uuid"], run.gpu["pci"] = gpu_identity(run.device.index)
    return f"{run.device} {run.gpu['name']}" if run.gpu else "cpu"


def require_arch(major, minor):
    """Fail unless torch holds code for this GPU: its sm, an older minor of it, or older PTX."""
    built = torch.cuda.get_arch_list()
    for arch in built:
        kind, digits = arch.split("_")[0], "".join(c for c in arch if c.isdigit())
        have = (int(digits[:-1]), int(digits[-1]))
        if have <= (major, minor) and (kind == "compute" or have[0] == major):
            return
    held = " ".join(built) or "no GPU"
    raise ProbeError("arch", f"GPU is sm_{major}{minor}; torch {torch.__version__} has {held}")
