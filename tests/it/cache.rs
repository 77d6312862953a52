//! The cache: what it holds, how it is bounded, shared, checked, and what it survives.

mod commands;
mod full;
mod kill;
mod shared;
mod strace;

use crate::{mini::names, support::Project};

const BUILD: [&str; 5] = ["build", "env.yml", "-t", "localhost/app:1", "--code=code"];

/// Small packages of both formats. None loses a file to another one, so no layer is made in vain.
const ENV: &str = "\
name: t
channels:
  - \"@CHANNEL@\"
dependencies:
  - hello-demo=1.0
  - links-demo
  - activate-demo
  - clobber-a
  - modes-demo
";

fn project() -> Project {
    let project = Project::new(ENV);
    project.write("code/main.py", "print('hello')\n");
    project
}

fn names_in(project: &Project, folder: &str) -> Vec<String> {
    names(&project.cache.join(folder))
}
