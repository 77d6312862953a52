//! The Python that the pip packages are for: the image's, never the builder's.

use pep508_rs::{MarkerEnvironment, MarkerEnvironmentBuilder};
use rattler_conda_types::RepoDataRecord;
use serde_json::{Value, json};

use crate::{
    error::{Error, Exit, Result},
    machine::Machine,
};

/// CPython on Linux with a glibc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Python's version in full, such as `3.11.2`.
    pub version: String,
    /// Python's major and minor version.
    pub python: (u32, u32),
    /// Whether it is the free-threaded build (PEP 703), whose ABI is another.
    pub free_threaded: bool,
    /// The minor version of the image's glibc 2.
    pub glibc: u32,
    /// What the image runs on.
    pub machine: Machine,
}

impl Target {
    /// The Python among conda packages, on that glibc (`2.36`) and machine.
    ///
    /// # Errors
    /// When there is no Python among them, it is not CPython, or the glibc is not a version 2.
    pub fn of(packages: &[RepoDataRecord], glibc: &str, machine: Machine) -> Result<Self> {
        let python = packages
            .iter()
            .map(|record| &record.package_record)
            .find(|record| record.name.as_normalized() == "python")
            .ok_or_else(|| {
                Error::input("pip packages need a Python, and the environment has none")
                    .hint("add python to 'dependencies:', such as '- python=3.12'")
            })?;
        let build = python.build.to_string();
        if build.contains("pypy") {
            return Err(
                Error::input("pip packages are for CPython only").why(format!(
                    "the environment's Python is {} (PyPy)",
                    python.build
                )),
            );
        }
        let version = python.version.to_string();
        let mut parts = version.split('.').map(str::parse);
        let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
            return Err(Error::input(format!(
                "Python '{version}' is no version that pip knows"
            )));
        };
        let libc = glibc.strip_prefix("2.").and_then(|text| {
            let minor = text.split('.').next().unwrap_or_default();
            minor.parse().ok()
        });
        Ok(Self {
            python: (major, minor),
            // conda-forge's builds say it at their end, as in `h123_0_cp313t`.
            free_threaded: build.ends_with(&format!("cp{major}{minor}t")),
            glibc: libc.ok_or_else(|| {
                Error::input(format!(
                    "glibc '{glibc}' is no version that wheels are built for"
                ))
                .why("a manylinux tag names a glibc 2.x (PEP 600)")
            })?,
            version,
            machine,
        })
    }

    /// `CPython 3.11 on glibc 2.36`, and the machine where it is not x86-64.
    pub fn words(&self) -> String {
        let (major, minor) = self.python;
        let threads = if self.free_threaded {
            "free-threaded "
        } else {
            ""
        };
        let machine = match self.machine {
            Machine::Amd64 => String::new(),
            other => format!(" and {}", other.uname()),
        };
        format!(
            "{threads}CPython {major}.{minor} on glibc 2.{}{machine}",
            self.glibc
        )
    }

    /// The values of environment markers (PEP 508). Kernel and release are the machine's that runs
    /// the image, so they are empty.
    ///
    /// # Errors
    /// When Python's version is none of PEP 440.
    pub fn markers(&self) -> Result<MarkerEnvironment> {
        let (major, minor) = self.python;
        MarkerEnvironment::try_from(MarkerEnvironmentBuilder {
            implementation_name: "cpython",
            implementation_version: &self.version,
            os_name: "posix",
            platform_machine: self.machine.uname(),
            platform_python_implementation: "CPython",
            platform_release: "",
            platform_system: "Linux",
            platform_version: "",
            python_full_version: &self.version,
            python_version: &format!("{major}.{minor}"),
            sys_platform: "linux",
        })
        .map_err(|e| Error::new(Exit::Input, "Python's version is not one of PEP 440").why(e))
    }

    /// A program that answers uv's question about an interpreter as the target's Python would.
    ///
    /// uv resolves for the interpreter that it is given, and does nothing without one. With this
    /// one it knows the exact Python and glibc (its `--python-platform` has but a few), and the
    /// builder needs no Python of its own.
    ///
    /// # Errors
    /// When Python's version is none of PEP 440.
    pub fn interpreter(&self) -> Result<String> {
        // Nothing in it has a quote that would end the shell's.
        Ok(format!("#!/bin/sh\nprintf '%s\\n' '{}'\n", self.answer()?))
    }

    /// What uv 0.7 to 0.13 read (crates/uv-python/python/get_interpreter_info.py); they ignore
    /// what they do not know.
    fn answer(&self) -> Result<Value> {
        let (major, minor) = self.python;
        let thread = if self.free_threaded { "t" } else { "" };
        let prefix = "/opt/conda";
        let executable = format!("{prefix}/bin/python{major}.{minor}");
        let stdlib = format!("{prefix}/lib/python{major}.{minor}{thread}");
        let site = format!("{stdlib}/site-packages");
        Ok(json!({
            "result": "success",
            "markers": self.markers()?,
            "sys_base_prefix": prefix,
            "sys_base_exec_prefix": prefix,
            "sys_prefix": prefix,
            "sys_base_executable": executable,
            "sys_executable": executable,
            "sys_path": [],
            "site_packages": [site],
            "stdlib": stdlib,
            "extension_suffixes": [],
            "standalone": false,
            "scheme": {
                "platlib": site,
                "purelib": site,
                "include": format!("{prefix}/include/python{major}.{minor}"),
                "scripts": format!("{prefix}/bin"),
                "data": prefix,
            },
            "virtualenv": {"purelib": "", "platlib": "", "include": "", "scripts": "", "data": ""},
            "os": {"name": "manylinux", "major": 2, "minor": self.glibc},
            "arch": self.machine.uname(),
            "platform": {
                "os": {"name": "manylinux", "major": 2, "minor": self.glibc},
                "arch": self.machine.uname(),
            },
            // The builder's processor must not choose a wheel.
            "cpu_info": {"detected": {"kind": "flags", "flags": ""}},
            "manylinux_compatible": true,
            "gil_disabled": self.free_threaded,
            "debug_enabled": false,
            "pointer_size": "64",
        }))
    }
}
