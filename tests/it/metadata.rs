//! What a build or push tells the programs that go on with it.

use serde_json::json;

use crate::{
    mini::{env, layout_manifest, read, read_json},
    support::{Project, channel, fixture},
};

#[test]
fn a_build_and_a_push_tell_their_digests_in_files() {
    let registry = fixture("IMGBUILD_TEST_REGISTRY").display().to_string();
    let name = format!("{registry}/metadata/{}:1", std::process::id());
    let project = Project::new(&env(channel(), &["hello-demo=1.0"]));
    let [outputs, summary] = ["outputs", "summary"].map(|file| project.path(file));
    let project = project
        .with_env("GITHUB_OUTPUT", &outputs)
        .with_env("GITHUB_STEP_SUMMARY", &summary);
    project.write("outputs", "earlier=1\n");
    let files = ["--metadata-file", "meta.json", "--iidfile", "id"];
    let build = ["build", "env.yml", "--base", "scratch", "-t", &name];
    let dest = ["-t", "train:dev", "-o", "type=oci,dest=out"];
    let built = project.ok(&[&build[..], &dest, &files].concat());
    let digest = built.digest();
    let (_, manifest) = layout_manifest(&project.path("out"));
    let id = manifest["config"]["digest"].as_str().unwrap();
    let metadata = |names: &str| {
        json!({
            "containerimage.config.digest": id,
            "containerimage.digest": digest,
            "image.name": names,
        })
    };
    let all = format!("{name},train:dev");
    assert_eq!(read_json(&project.path("meta.json")), metadata(&all));
    assert_eq!(read(&project, "id"), id);
    let added = format!("digest={digest}\nimageid={id}\n");
    assert_eq!(read(&project, "outputs"), format!("earlier=1\n{added}"));
    assert!(read(&project, "summary").contains(&format!("`{name}`")));

    let pushed = project.ok(&[&["push", &name][..], &files].concat());
    assert_eq!(pushed.digest(), digest);
    assert_eq!(read_json(&project.path("meta.json")), metadata(&name));
    let twice = format!("earlier=1\n{added}{added}");
    assert_eq!(read(&project, "outputs"), twice);
}

#[test]
fn what_failed_leaves_no_files() {
    let project = Project::new(&env(channel(), &["hello-demo=1.0"]));
    let build = [
        "build",
        "env.yml",
        "--base",
        "scratch",
        "-t",
        "127.0.0.1:1/a",
    ];
    let failed = project.imgbuild(&[&build[..], &["--push", "--iidfile", "id"]].concat());
    failed.expect(3);
    assert!(!project.path("id").exists());
    let nowhere = project.imgbuild(&[&build[..], &["--iidfile", "no/such/id"]].concat());
    nowhere.expect(2);
    assert!(
        nowhere.stderr.contains("no/such is not a folder"),
        "{}",
        nowhere.stderr
    );
}
