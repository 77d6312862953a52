//! `pip:` sections: resolved by a real uv into locked wheels, over conda's packages.

mod conda;
mod support;

use std::{fs, path::PathBuf};

use crate::{
    mini::{names, read, sha256},
    support::{Channel, channel, fixture},
};
use support::{Index, Pip, env, real_wheels, tiny_wheel};

const PYTHON: &str = "python=3.11";

fn torch_indexes() -> (Index, Index) {
    let main = Index::of(&[
        (
            "torch-2.1.0-cp311-cp311-manylinux_2_28_x86_64.whl",
            &["filelock"],
        ),
        (
            "torch-2.2.0-cp311-cp311-manylinux_2_28_x86_64.whl",
            &["filelock"],
        ),
        ("filelock-3.0-py3-none-any.whl", &[]),
    ]);
    let cu118 = Index::of(&[
        (
            "torch-2.1.0+cu118-cp311-cp311-linux_x86_64.whl",
            &["filelock"],
        ),
        (
            "torch-2.1.0+cu118-cp312-cp312-linux_x86_64.whl",
            &["filelock"],
        ),
    ]);
    (main, cu118)
}

#[test]
fn real_wheels_are_locked_for_the_image_without_a_python_here() {
    let [no_index, links] = real_wheels();
    let lines = [
        &*no_index,
        &*links,
        "requests[socks]>=2 # the client",
        "PyYAML",
    ];
    let pip = Pip::new(&[PYTHON], &lines[..2]);
    // The section's lines may be as conda's documentation writes them.
    let with_extra = env(channel(), &[PYTHON], &lines).replace("[socks]", "");
    pip.project.write_env(&with_extra);
    let wheels = pip.wheels();
    assert_eq!(
        wheels,
        [
            "certifi-2026.10.19.post1-py3-none-any.whl",
            "charset_normalizer-3.5.2-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.manylinux_2_28_x86_64.whl",
            "idna-3.20-py3-none-any.whl",
            "pyyaml-6.0.4-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.manylinux_2_28_x86_64.whl",
            "requests-2.34.2-py3-none-any.whl",
            "urllib3-2.8.0-py3-none-any.whl",
        ]
    );
    for (url, hash) in pip.locked() {
        let path = PathBuf::from(url.trim_start_matches("file://"));
        assert_eq!(sha256(&fs::read(path).unwrap()), hash);
    }
    let first = read(&pip.project, "env.lock.yml");
    pip.lock().expect(0);
    assert_eq!(read(&pip.project, "env.lock.yml"), first);
    // Another folder, an empty cache, the lines in another order: the same lock.
    let other = Pip::new(&[PYTHON], &["PyYAML", &links, "requests>=2", &no_index]);
    other.lock().expect(0);
    assert_eq!(read(&other.project, "env.lock.yml"), first);
    // What uv was given is gone.
    assert_eq!(names(&other.project.cache.join("tmp")), [""; 0]);
}

#[test]
fn local_versions_come_from_the_extra_index() {
    let (main, cu118) = torch_indexes();
    let (main, cu118) = (Channel::serve(main.path()), Channel::serve(cu118.path()));
    let index = format!("--index-url {}/simple", main.url);
    let extra = format!("--extra-index-url {}/simple", cu118.url);
    for asked in ["torch==2.1.0", "torch==2.1.0+cu118", "torch"] {
        let pip = Pip::new(&[PYTHON], &[&index, &extra, asked]);
        let wheels = pip.wheels();
        let torch = "torch-2.1.0%2Bcu118-cp311-cp311-linux_x86_64.whl";
        assert_eq!(wheels, ["filelock-3.0-py3-none-any.whl", torch], "{asked}");
        assert!(read(&pip.project, "env.lock.yml").contains("version: 2.1.0+cu118"));
    }
    let pip = Pip::new(&[PYTHON], &[&index, &extra, "torch==2.2.0"]);
    let said = pip.refused(2);
    assert!(
        said.contains("UV_INDEX_STRATEGY=unsafe-best-match"),
        "{said}"
    );
    let pip = pip.with_env("UV_INDEX_STRATEGY", "unsafe-best-match");
    assert!(pip.wheels()[1].starts_with("torch-2.2.0-"));
    // uv's other settings would choose for one user what the next does not get.
    let pip = Pip::new(&[PYTHON], &[&index, "filelock"])
        .with_env("UV_RESOLUTION", "nonsense")
        .with_env("UV_INDEX_URL", "http://127.0.0.1:1/simple")
        .with_env("PIP_EXTRA_INDEX_URL", "http://127.0.0.1:1/simple");
    assert_eq!(pip.wheels(), ["filelock-3.0-py3-none-any.whl"]);
    let said = pip.lock().stderr;
    assert!(said.contains("PIP_EXTRA_INDEX_URL is set"), "{said}");
}

#[test]
fn the_wheel_fits_the_images_python_and_glibc() {
    let index = Index::of(&[
        (
            "multi-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
            &[],
        ),
        ("multi-1.0-cp311-cp311-manylinux_2_31_x86_64.whl", &[]),
        ("multi-1.0-cp39-abi3-manylinux_2_17_x86_64.whl", &[]),
        ("multi-1.0-cp311-cp311-musllinux_1_2_x86_64.whl", &[]),
        ("multi-1.0-py3-none-any.whl", &[]),
        ("newest-1.0-cp311-cp311-manylinux_2_31_x86_64.whl", &[]),
    ]);
    let served = Channel::serve(index.path());
    let line = format!("-i {}/simple", served.url);
    for (glibc, wheel) in [
        ("2.36", "multi-1.0-cp311-cp311-manylinux_2_31_x86_64.whl"),
        ("2.31", "multi-1.0-cp311-cp311-manylinux_2_31_x86_64.whl"),
        (
            "2.30",
            "multi-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        ),
    ] {
        let pip = Pip::new(&[PYTHON], &[&line, "multi"]).with_env("CONDA_OVERRIDE_GLIBC", glibc);
        assert_eq!(pip.wheels(), [wheel], "{glibc}");
    }
    let pip = Pip::new(&["python=3.9"], &[&line, "multi"]);
    assert_eq!(
        pip.wheels(),
        ["multi-1.0-cp39-abi3-manylinux_2_17_x86_64.whl"]
    );
    let pip = Pip::new(&[PYTHON], &[&line, "newest"]).with_env("CONDA_OVERRIDE_GLIBC", "2.30");
    let said = pip.refused(2);
    let words = "newest has no wheel for CPython 3.11 on glibc 2.30";
    assert!(said.contains(words), "{said}");
}

#[test]
fn what_cannot_be_resolved_is_named_with_the_way_out() {
    let index = Index::of(&[
        ("srconly-1.0.tar.gz", &[]),
        ("needs_src-1.0-py3-none-any.whl", &["srconly"]),
        ("winonly-1.0-cp311-cp311-win_amd64.whl", &[]),
        ("good-1.0-py3-none-any.whl", &["other<2"]),
        ("other-1.0-py3-none-any.whl", &[]),
        ("other-2.0-py3-none-any.whl", &[]),
    ]);
    let served = Channel::serve(index.path());
    let line = format!("-i {}/simple", served.url);
    for (asked, words) in [
        (
            "srconly",
            "srconly has no wheel for CPython 3.11 on glibc 2.",
        ),
        (
            "needs-src",
            "srconly has no wheel for CPython 3.11 on glibc 2.",
        ),
        (
            "winonly",
            "winonly has no wheel for CPython 3.11 on glibc 2.",
        ),
        ("nosuch", "nosuch was not found in the package registry"),
        ("good>1", "only good==1.0 is available"),
        ("other==3", "there is no version of other==3"),
    ] {
        let pip = Pip::new(&[PYTHON], &[&line, "good", asked]);
        let said = pip.refused(2);
        assert!(said.contains(words), "{asked}: {said}");
        let place = if asked.starts_with("good") {
            "env.yml:7:5"
        } else {
            "env.yml:8:5"
        };
        assert!(said.contains(&format!("at: {place}")), "{asked}: {said}");
        assert!(said.contains("hint: "), "{asked}: {said}");
        assert!(said.lines().count() < 14, "{said}");
    }
    let pip = Pip::new(&[PYTHON], &["-i http://127.0.0.1:1/simple", "good"])
        .with_env("UV_HTTP_RETRIES", "0");
    let said = pip.refused(3);
    assert!(said.contains("a package index cannot be read"), "{said}");
    let pip = Pip::new(&["hello-demo"], &["good"]);
    let said = pip.refused(2);
    assert!(said.contains("pip packages need a Python"), "{said}");
}

#[test]
fn a_lock_keeps_wheels_until_they_are_to_move() {
    let index = Index::of(&[
        ("a-1.0-py3-none-any.whl", &["b"]),
        ("b-1.0-py3-none-any.whl", &[]),
    ]);
    let served = Channel::serve(index.path());
    let line = format!("-i {}/simple", served.url);
    let markers = [
        "b<9 ; sys_platform == 'linux'",
        "b>9 ; sys_platform == 'win32'",
    ];
    let markers = markers.map(|line| format!("\"{line}\""));
    let pip = Pip::new(&[PYTHON], &[&line, "a", &markers[0], &markers[1]]);
    let first = ["a-1.0-py3-none-any.whl", "b-1.0-py3-none-any.whl"];
    assert_eq!(pip.wheels(), first);
    let lock = read(&pip.project, "env.lock.yml");
    index.add("a-2.0-py3-none-any.whl", &["b"]);
    index.add("b-2.0-py3-none-any.whl", &[]);
    // Not the index as uv remembers it.
    fs::remove_dir_all(pip.project.cache.join("pip/uv")).unwrap();
    assert_eq!(pip.wheels(), first);
    assert_eq!(read(&pip.project, "env.lock.yml"), lock);
    pip.project.ok(&["lock", "env.yml", "--locked"]);
    pip.project.ok(&["lock", "env.yml", "--update", "b"]);
    let moved = ["a-1.0-py3-none-any.whl", "b-2.0-py3-none-any.whl"];
    pip.project.ok(&["lock", "env.yml", "--offline"]);
    assert_eq!(pip.wheels(), moved);

    let fresh = Pip::new(&[PYTHON], &[&line, "a"]);
    let date = ["lock", "env.yml", "--exclude-newer", "2026-11-20"];
    let out = fresh.project.imgbuild(&date);
    out.expect(2);
    assert!(out.stderr.contains("exclude-newer"), "{}", out.stderr);
    let edited = read(&pip.project, "env.yml").replace("- a\n", "- a>=2\n");
    pip.project.write_env(&edited);
    let out = pip.project.imgbuild(&["lock", "env.yml", "--locked"]);
    out.expect(2);
    assert!(
        out.stderr.contains("no locked wheel meets 'a>=2'"),
        "{}",
        out.stderr
    );
    assert_eq!(pip.wheels(), ["a-2.0-py3-none-any.whl", moved[1]]);
}

#[test]
fn logins_reach_the_index_and_nothing_else() {
    let (main, cu118) = torch_indexes();
    let main = Channel::serve(main.path());
    let cu118 = Channel::serve_with(cu118.path(), &["--auth", "me:s3cr3t"]);
    let index = format!("-i {}/simple", main.url);
    let address = cu118.url.strip_prefix("http://").unwrap();
    let extra = format!("--extra-index-url http://${{LOGIN}}:${{TOKEN}}@{address}/simple");
    let lines = [&*index, &*extra, "torch==2.1.0"];
    let pip = Pip::new(&[PYTHON], &lines)
        .with_env("LOGIN", "me")
        .with_env("TOKEN", "s3cr3t");
    let uv = fixture("IMGBUILD_TEST_UV").canonicalize().unwrap();
    pip.replace_uv(&format!(
        "(echo \"$@\"; export -p) >> {}\nexec {} \"$@\"",
        pip.project.path("seen").display(),
        uv.display()
    ));
    assert!(pip.wheels()[1].contains("cu118"));
    assert!(read(&pip.project, "seen").contains("pip compile"));
    let lock = read(&pip.project, "env.lock.yml");
    let arguments = read(&pip.project, "seen").replace("TOKEN='s3cr3t'", "");
    for text in [lock, pip.lock().stderr, arguments] {
        assert!(!text.contains("s3cr3t"), "{text}");
        assert!(!text.contains("//me"), "{text}");
    }

    let wrong = Pip::new(&[PYTHON], &lines)
        .with_env("LOGIN", "me")
        .with_env("TOKEN", "wr0ng");
    let said = wrong.with_env("UV_INDEX_STRATEGY", "unsafe-best-match");
    let said = said.lock().stderr;
    assert!(!said.contains("wr0ng"), "{said}");

    // netrc works as with any tool.
    let extra = format!("--extra-index-url {}/simple", cu118.url);
    let host = address.split(':').next().unwrap();
    let netrc = format!("machine {host} login me password s3cr3t\n");
    let pip = Pip::new(&[PYTHON], &[&index, &extra, "torch==2.1.0+cu118"]);
    let said = pip.refused(2);
    assert!(said.contains("~/.netrc"), "{said}");
    fs::write(pip.project.home().join(".netrc"), netrc).unwrap();
    assert!(pip.wheels()[1].contains("cu118"));
}

#[test]
fn without_a_uv_the_way_to_one_is_said() {
    let pip = Pip::new(&[PYTHON], &["six"]);
    fs::remove_file(pip.bin.path().join("uv")).unwrap();
    let said = pip.refused(3);
    assert!(said.contains("no uv on PATH"), "{said}");
    assert!(said.contains("pip install uv"), "{said}");
    fs::write(pip.bin.path().join("uv"), "").unwrap();
    for (script, words) in [
        ("echo uv 0.4.1", "uv 0.4.1 is too old"),
        ("echo hello", "does not say its version"),
        (
            "[ $1 = --version ] && echo uv 0.99.0; exit 2",
            "uv gave no reason",
        ),
        (
            "[ $1 = --version ] && echo uv 0.99.0 || \
             echo 'error: Failed to inspect Python interpreter' >&2; exit 2",
            "uv 0.99.0 does not take the image's Python",
        ),
    ] {
        pip.replace_uv(script);
        let out = pip.lock();
        assert!(out.status == 2 || out.status == 3, "{script}");
        assert!(out.stderr.contains(words), "{script}: {}", out.stderr);
    }
    // Without a pip section, or with an empty one, none is needed.
    for text in ["- pip:\n", ""] {
        let spec = format!(
            "channels: ['{}']\ndependencies:\n- hello-demo\n{text}",
            channel()
        );
        pip.project.write_env(&spec);
        pip.lock().expect(0);
    }
}

#[test]
fn files_of_the_project_give_wheels_lines_and_hashes() {
    let wheel = "mine-1.0-py3-none-any.whl";
    let bytes = tiny_wheel(wheel, &["tqdm"]);
    let [no_index, links] = real_wheels();
    let pip = Pip::new(
        &[PYTHON],
        &[
            &no_index,
            &links,
            "-f ./my%20wheels",
            "-r requirements/all.txt",
            "./dist/here-2.0-py3-none-any.whl",
        ],
    );
    let text = read(&pip.project, "env.yml").replace("./my%20wheels", "'./my wheels'");
    pip.project.write_env(&text);
    for (folder, file) in [("my wheels", wheel), ("dist", "here-2.0-py3-none-any.whl")] {
        fs::create_dir(pip.project.path(folder)).unwrap();
        let bytes = if file == wheel {
            bytes.clone()
        } else {
            tiny_wheel(file, &[])
        };
        fs::write(pip.project.path(folder).join(file), bytes).unwrap();
    }
    let requirements = |hash: &str| {
        let text = format!("mine==1.0 \\\n    --hash=sha256:{hash}\n-c limits.txt\n");
        pip.project.write("requirements/all.txt", &text);
    };
    pip.project
        .write("requirements/limits.txt", "tqdm<5\nunused>7\n");
    requirements(&sha256(&bytes));
    assert_eq!(
        pip.wheels(),
        [
            "here-2.0-py3-none-any.whl",
            "mine-1.0-py3-none-any.whl",
            "tqdm-4.70.1-py3-none-any.whl"
        ]
    );
    fs::remove_file(pip.project.path("env.lock.yml")).unwrap();
    requirements(&"0".repeat(64));
    let said = pip.refused(2);
    assert!(
        said.contains("no wheel of mine has a hash that its line allows"),
        "{said}"
    );
    assert!(said.contains("requirements/all.txt:1:1"), "{said}");
    requirements(&sha256(&bytes));
    pip.project
        .write("requirements/limits.txt", "tqdm<4\n--require-hashes\n");
    let said = pip.refused(2);
    assert!(said.contains("tqdm"), "{said}");
    pip.project
        .write("requirements/limits.txt", "--require-hashes\n");
    let said = pip.refused(2);
    assert!(
        said.contains("here has no hash, and --require-hashes"),
        "{said}"
    );
}
