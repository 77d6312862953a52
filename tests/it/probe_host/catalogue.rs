//! Every code of the probe has a test: the fault itself where this machine can have it, else its recorded words.

use std::{collections::BTreeSet, fs};

use super::python;
use crate::support::source;

/// Errors as torch, CUDA and NCCL word them, and the code that each must get.
const RECORDED: [(&str, &str); 9] = [
    (
        "oom",
        "CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 79.15 GiB total capacity)",
    ),
    ("oom", "CUDA error: out of memory"),
    (
        "arch",
        "CUDA error: no kernel image is available for execution on the device",
    ),
    (
        "shm",
        "unable to write to file </torch_1_2>: No space left on device (28)",
    ),
    (
        "worker-killed",
        "DataLoader worker (pid 77) is killed by signal: Killed.",
    ),
    (
        "stall",
        "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3, OpType=ALLREDUCE) ran for 600000 milliseconds",
    ),
    ("peer-lost", "Connection closed by peer [127.0.0.1]:4321"),
    (
        "nccl",
        "NCCL error in: ProcessGroupNCCL.cpp:1269, internal error, NCCL version 2.14.3",
    ),
    ("error", "something else"),
];

#[test]
fn recorded_errors_get_their_codes() {
    let texts: Vec<&str> = RECORDED.iter().map(|(_, text)| *text).collect();
    let said = python(&format!(
        "import ddp_report\nfor text in {texts:?}: print(ddp_report.classify(RuntimeError(text), 'train'))"
    ));
    let codes: Vec<&str> = RECORDED.iter().map(|(code, _)| *code).collect();
    assert_eq!(said.lines().collect::<Vec<_>>(), codes);
    let met =
        python("import ddp_report\nprint(ddp_report.classify(RuntimeError('x'), 'rendezvous'))");
    assert_eq!(met, "rendezvous\n");
}

/// A stand-in for a torch of another build, under the checks as they are.
fn checked(torch: &str, call: &str) -> String {
    python(&format!(
        "from types import SimpleNamespace as N\n\
         import ddp_machine as m, ddp_report\n\
         run = N(args=N(backend='nccl'))\n\
         {torch}\n\
         try: {call}\n\
         except ddp_report.ProbeError as error: print(error.code)"
    ))
}

#[test]
fn torches_that_lack_something() {
    let built = "m.torch = N(__version__='2.0', version=N(cuda='12.1'), cuda=N(device_count=lambda: 2, \
                 is_available=lambda: True, get_arch_list=lambda: ['sm_70', 'sm_80']))\n\
                 m.dist = N(is_available=lambda: True, is_nccl_available=lambda: True, is_gloo_available=lambda: False)";
    let torch = "m.check_torch(run)";
    for (code, change, call) in [
        (
            "no-torch",
            "m.torch, m.IMPORT_ERROR = None, 'ImportError: libcudart.so.12'",
            torch,
        ),
        (
            "no-distributed",
            "m.dist.is_available = lambda: False",
            torch,
        ),
        ("no-nccl", "m.dist.is_nccl_available = lambda: False", torch),
        ("no-gloo", "run.args.backend = 'gloo'", torch),
        ("cpu-torch", "m.torch.version.cuda = None", torch),
        ("too-few-gpus", "", "m.require_gpus(4)"),
        ("arch", "", "m.require_arch(9, 0)"),
        (
            "no-cuda",
            "m.torch.cuda.is_available = lambda: False; m.torch.cuda.init = lambda: None",
            "m.require_gpus(1)",
        ),
        (
            "driver-too-old",
            "m.torch.cuda.is_available = lambda: False\n\
             def old(): raise RuntimeError('The NVIDIA driver on your system is too old (found version 11040).')\n\
             m.torch.cuda.init = old",
            "m.require_gpus(1)",
        ),
    ] {
        assert_eq!(checked(&format!("{built}\n{change}"), call).trim(), code);
    }
    assert_eq!(checked(built, "m.require_arch(8, 6)"), "");
}

#[test]
fn what_nvidia_smi_complains_of() {
    let gpu = |volatile: &str, pending: &str| {
        format!(
            "<nvidia_smi_log><gpu><ecc_errors><volatile><sram_uncorrectable_parity>0</sram_uncorrectable_parity>\
             <dram_uncorrectable>{volatile}</dram_uncorrectable></volatile><aggregate><dram_uncorrectable>9\
             </dram_uncorrectable></aggregate></ecc_errors><remapped_rows><remapped_row_pending>{pending}\
             </remapped_row_pending></remapped_rows></gpu></nvidia_smi_log>"
        )
    };
    let said = |xml: String| {
        python(&format!(
            "import ddp_alone\nprint(ddp_alone.complaints({xml:?}))"
        ))
    };
    assert_eq!(said(gpu("0", "No")), "[]\n");
    assert_eq!(
        said(gpu("2", "Yes")),
        "['ECC dram_uncorrectable 2', 'remapped_row_pending']\n"
    );
}

/// docs/probe-faults.md says of each code how it is tested, and by what.
#[test]
fn every_code_of_the_probe_has_a_test() {
    let codes = fs::read_to_string(source("docs/codes.md")).unwrap();
    let probes: BTreeSet<&str> = codes
        .split("\n## ")
        .skip(1)
        .filter(|section| section.to_lowercase().contains("failure of the probe: "))
        .filter_map(|section| section.lines().next())
        .collect();
    let table = fs::read_to_string(source("docs/probe-faults.md")).unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let named: BTreeSet<&str> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    assert_eq!(named, probes);
    for row in rows {
        assert!(["made here", "recorded"].contains(&row[1]), "{row:?}");
        let (file, test) = row[2].trim_matches('`').split_once("::").unwrap();
        let text = fs::read_to_string(source(file)).unwrap();
        assert!(text.contains(&format!("fn {test}(")), "{row:?}");
    }
}

#[test]
fn a_loss_that_does_not_fall() {
    let said = |last: &str| {
        python(&format!(
            "from types import SimpleNamespace as N\n\
             import ddp_probe, ddp_report\n\
             run = N(figures=dict(loss_first=2.3, loss_last={last}))\n\
             try: print(ddp_probe.check_loss_falls(run))\n\
             except ddp_report.ProbeError as error: print(error.code)"
        ))
    };
    assert_eq!([said("2.3"), said("None")], ["loss\n", "loss\n"]);
    assert_eq!(said("0.1"), "2.3 -> 0.1\n");
}
