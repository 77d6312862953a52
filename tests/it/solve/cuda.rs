//! CUDA: the two classic environments of PyTorch, and what pins and flags say.

use super::{CLASSIC, Channels, has, locked, refused};

#[test]
fn pytorch_1_12_with_cuda_11_3() {
    let specs = [
        "python=3.9",
        "pytorch=1.12",
        "torchvision",
        "torchaudio",
        "cudatoolkit=11.3",
    ];
    let (output, packages) = locked(&Channels::classic().project(&CLASSIC, &specs), &[]);
    let told = "__cuda 11.3, from cudatoolkit=11.3 (env.yml:";
    assert!(output.stderr.contains(told), "{}", output.stderr);
    has(
        &packages,
        &[
            "pytorch-1.12.1-py3.9_cuda11.3_cudnn8.3.2_0",
            "torchvision-0.13.1-py39_cu113",
            "torchaudio-0.12.1-py39_cu113",
            "cudatoolkit-11.3.1",
            "pytorch-mutex-1.0-cuda",
            "python-3.9.",
        ],
    );
}

#[test]
fn pytorch_2_0_with_cuda_11_8() {
    let specs = [
        "python=3.9",
        "pytorch=2.0",
        "torchvision",
        "torchaudio",
        "pytorch-cuda=11.8",
    ];
    let (_, packages) = locked(&Channels::classic().project(&CLASSIC, &specs), &[]);
    has(
        &packages,
        &[
            "pytorch-2.0.1-py3.9_cuda11.8_cudnn8.7.0_0",
            "torchvision-0.15.2-py39_cu118",
            "torchaudio-2.0.2-py39_cu118",
            "pytorch-cuda-11.8-h7e8668a_5",
            "torchtriton-2.0.0-py39",
            "cuda-cudart-11.8.89",
            "pytorch-mutex-1.0-cuda",
            // Strict priority: conda-forge's ffmpeg 6 does not count.
            "ffmpeg-4.3",
        ],
    );
}

/// However loosely the rest is asked for, CUDA 11.8 is not 11.7, 12.1 or none.
#[test]
fn one_cuda_is_never_another_or_none() {
    let channels = Channels::classic();
    let asks: [&[&str]; 6] = [
        &["pytorch", "torchvision", "pytorch-cuda=11.8"],
        &["pytorch=2", "pytorch-cuda=11.8", "python=3.9"],
        &["pytorch=2.0.0", "pytorch-cuda=11.8"],
        &["pytorch=*=*cuda11.8*", "torchvision", "torchaudio"],
        // Other words than those of torch's channel.
        &["pytorch", "torchvision", "cuda-version=11.8"],
        &["pytorch", "cuda-runtime=11.8"],
    ];
    for specs in asks {
        for priority in ["strict", "flexible", "disabled"] {
            let project = channels.project(&CLASSIC, specs);
            // cuda-runtime bounds nothing above: its newest libraries are for another CUDA.
            let flags = ["--channel-priority", priority, "--allow", "cuda-mixed"];
            let (output, packages) = locked(&project, &flags);
            assert!(
                output.stderr.contains("__cuda 11.8, from"),
                "{}",
                output.stderr
            );
            let torch = packages
                .iter()
                .filter(|p| p.starts_with("torch") || p.starts_with("pytorch"));
            for package in torch {
                let is_other = [
                    "cpu", "cu117", "cuda11.7", "cu121", "cuda12", "11.7-", "12.1-",
                ]
                .iter()
                .any(|other| package.contains(other));
                assert!(!is_other, "{specs:?} {priority}: {package}");
            }
            let is_118 = |p: &String| p.contains("_cuda11.8_") || p.contains("-cuda118_");
            assert!(
                packages.iter().any(is_118),
                "{specs:?} {priority}: {packages:#?}"
            );
        }
    }
    // The flag says what drivers offer: the same release where there is one, else an older one.
    let project = channels.project(&CLASSIC, &["pytorch", "torchvision", "python=3.9"]);
    for (cuda, torch) in [
        ("11.8", "pytorch-2.1.0-py3.9_cuda11.8"),
        ("11.7", "pytorch-2.0.1-py3.9_cuda11.7"),
        ("12.1", "pytorch-2.1.0-py3.9_cuda12.1"),
        ("11.9", "pytorch-2.1.0-py3.9_cuda11.8"),
    ] {
        has(&locked(&project, &["--cuda", cuda]).1, &[torch]);
    }
    has(&locked(&project, &[]).1, &["pytorch-2.1.0"]);
}

#[test]
fn a_cpu_torch_is_never_the_answer_to_a_wish_for_cuda() {
    let channels = Channels::classic();
    // The solver alone answers these with CPU builds.
    let asks: [(&[&str], &str, &str); 3] = [
        (
            &["pytorch=2.0", "pytorch-cuda=12.1"],
            "CUDA 12.1 is asked for, but torch is a CPU build",
            "pytorch 2.0.1 is there for CUDA 11.7, 11.8",
        ),
        (
            &["pytorch=1.13", "pytorch-cuda=11.8", "python=3.9"],
            "CUDA 11.8 is asked for, but torch is a CPU build",
            "pytorch 1.13.1 is there for CUDA 11.6, 11.7",
        ),
        (
            &["pytorch", "cpuonly", "pytorch-cuda=11.8"],
            "CUDA 11.8 is asked for, but torch is a CPU build",
            "hint: ",
        ),
    ];
    for (specs, what, why) in asks {
        let said = refused(&channels.project(&CLASSIC, specs), &[]);
        assert!(said.contains(what) && said.contains(why), "{said}");
    }
    // conda-forge: a GPU-less builder gets CUDA builds, or has to say which CUDA.
    let forge = |specs: &[&str]| channels.project(&["conda-forge"], specs);
    let torch = |specs: &[&str], flags: &[&str]| {
        let (_, packages) = locked(&forge(specs), flags);
        packages
            .into_iter()
            .find(|p| p.starts_with("pytorch"))
            .unwrap()
    };
    let wanted = ["python=3.10", "pytorch", "cuda-version=11.8"];
    assert!(torch(&wanted, &[]).contains("cuda118"));
    assert!(torch(&["python=3.10", "pytorch"], &["--cuda", "12.4"]).contains("cuda120"));
    assert!(torch(&["python=3.10", "pytorch"], &[]).contains("cpu_generic"));
    for unsaid in ["pytorch-gpu", "pytorch=*=*cuda*", "cuda-version<12"] {
        let said = refused(&forge(&["python=3.10", "pytorch", unsaid]), &[]);
        assert!(
            said.contains("--cuda 12.9") && said.contains("env.yml:"),
            "{said}"
        );
    }
    // CPU builds by name are no mistake, whatever the drivers offer.
    let cpu = ["pytorch=2.0", "cpuonly", "python=3.9"];
    let (_, packages) = locked(
        &channels.project(&CLASSIC, &cpu),
        &["--cuda", "11.8", "--allow", "cpu-torch"],
    );
    has(&packages, &["pytorch-2.0.1-py3.9_cpu_0"]);
}
