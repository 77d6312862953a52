//! What conda packages bring counts as installed.

use std::fs;

use super::{
    PYTHON,
    support::{Index, Pip, add_conda},
};
use crate::{
    mini::{Mini, names},
    support::Channel,
};

#[test]
fn conda_packages_count_as_installed() {
    // An index that has newer, older and the very same versions of what conda has.
    let index = Index::of(&[
        (
            "needs_all-1.0-py3-none-any.whl",
            &["idna>=3", "PyYAML", "tqdm>=4"],
        ),
        ("idna-3.20-py3-none-any.whl", &["left-over"]),
        ("idna-99-py3-none-any.whl", &[]),
        ("pyyaml-6.0.4-cp311-cp311-linux_x86_64.whl", &[]),
        ("tqdm-99-py3-none-any.whl", &[]),
        ("requests-99-py3-none-any.whl", &[]),
    ]);
    let served = Channel::serve(index.path());
    let line = format!("-i {}/simple", served.url);
    // requests brings idna, but neither PyYAML nor tqdm.
    let pip = Pip::new(&[PYTHON, "requests"], &[&line, "needs-all", "requests"]);
    assert_eq!(
        pip.wheels(),
        [
            "needs_all-1.0-py3-none-any.whl",
            "pyyaml-6.0.4-cp311-cp311-linux_x86_64.whl",
            "tqdm-99-py3-none-any.whl"
        ]
    );
    // Only packages that need Python are opened, and only once.
    let opened = names(&pip.project.cache.join("packages"));
    assert!(!opened.is_empty());
    fs::remove_dir_all(pip.project.cache.join("packages")).unwrap();
    pip.wheels();
    assert_eq!(names(&pip.project.cache.join("packages")), [""; 0]);
}

/// A channel with a Python that is none, and a pytorch as conda-forge's: its metadata says torch.
fn pytorch_channel() -> Mini {
    let mini = Mini::of(&[]);
    add_conda(&mini, "python", "3.11.9", &[]);
    let torch = "lib/python3.11/site-packages/torch-2.1.0.dist-info";
    let vendored = "lib/python3.11/site-packages/torch/_vendor/filelock-1.0.dist-info/METADATA";
    let files = [
        &format!("{torch}/METADATA"),
        &format!("{torch}/RECORD"),
        vendored,
    ];
    add_conda(&mini, "pytorch", "2.1.0", &files);
    mini
}

#[test]
fn a_second_torch_is_never_pulled_over_condas() {
    let mini = pytorch_channel();
    let index = Index::of(&[
        (
            "torch-2.1.0-cp311-cp311-linux_x86_64.whl",
            &["nvidia-cublas-cu12"],
        ),
        (
            "torch-2.2.0-cp311-cp311-linux_x86_64.whl",
            &["nvidia-cublas-cu12"],
        ),
        (
            "nvidia_cublas_cu12-12.1-py3-none-manylinux1_x86_64.whl",
            &[],
        ),
        ("lightning-2.0-py3-none-any.whl", &["torch>=2", "filelock"]),
        ("lightning-2.1-py3-none-any.whl", &["torch>=2.2"]),
        ("extra-1.0-py3-none-any.whl", &["torch[opt]>=2"]),
        ("filelock-3.0-py3-none-any.whl", &[]),
    ]);
    let served = Channel::serve(index.path());
    let line = format!("-i {}/simple", served.url);
    let specs = ["python", "pytorch"];
    let pip = Pip::over(&mini.url(), &specs, &[&line, "lightning", "torch"]);
    // lightning 2.1 does not go with conda's torch; what torch vendors is not installed.
    assert_eq!(
        pip.wheels(),
        [
            "filelock-3.0-py3-none-any.whl",
            "lightning-2.0-py3-none-any.whl"
        ]
    );

    for (asked, words) in [
        ("torch==2.2", "pip asks for torch==2.2, and conda has 2.1.0"),
        ("torch[opt]", "the extra torch[opt] cannot be had"),
        (
            "'torch @ https://h/torch-2.1.0-py3-none-any.whl'",
            "pip asks for a wheel of torch",
        ),
    ] {
        let pip = Pip::over(&mini.url(), &specs, &[&line, "lightning", asked]);
        let said = pip.refused(2);
        assert!(said.contains(words), "{asked}: {said}");
        assert!(
            !said.contains("ask conda") || said.contains("'pytorch==2.2'"),
            "{said}"
        );
        assert!(said.contains("at: env.yml:9:5"), "{asked}: {said}");
        assert!(
            said.contains("conda package pytorch-2.1.0-py311_0"),
            "{asked}: {said}"
        );
    }
    let pip = Pip::over(&mini.url(), &specs, &[&line, "lightning>=2.1"]);
    let said = pip.refused(2);
    assert!(said.contains("at: env.yml:8:5"), "{said}");
    assert!(said.contains("only torch<2.2 is available"), "{said}");
    assert!(
        said.contains("torch 2.1.0 is the conda package pytorch-2.1.0-py311_0,"),
        "{said}"
    );
    let pip = Pip::over(&mini.url(), &specs, &[&line, "extra"]);
    assert_eq!(pip.wheels(), ["extra-1.0-py3-none-any.whl"]);
    let said = pip.lock().stderr;
    assert!(
        said.contains("warning: something needs torch[opt], and torch is the conda package"),
        "{said}"
    );
    // A limit holds for what conda has too, but only where it is needed.
    let limited = |lines: &[&str]| {
        let pip = Pip::over(&mini.url(), &specs, lines);
        pip.project
            .write("limits.txt", "torch<2\nnvidia-cublas-cu12<99\n");
        pip
    };
    let said = limited(&[&line, "-c limits.txt", "lightning"]).refused(2);
    assert!(said.contains("torch 2.1.0 is the conda package"), "{said}");
    let pip = limited(&[&line, "-c limits.txt", "filelock"]);
    assert_eq!(pip.wheels(), ["filelock-3.0-py3-none-any.whl"]);
    // A line that a marker leaves out asks for nothing.
    let away = "torch==2.2 ; sys_platform == 'win32'";
    let pip = Pip::over(
        &mini.url(),
        &specs,
        &[&line, &format!("\"{away}\""), "filelock"],
    );
    assert_eq!(pip.wheels(), ["filelock-3.0-py3-none-any.whl"]);
}
