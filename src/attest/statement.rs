//! in-toto statements (in-toto Attestation Framework, "Statement v1") and the SLSA provenance.

use serde_json::{Value, json};

use crate::{
    digest::Digest,
    sbom::{Base, Component, Materials, Subject, of_base, of_component},
};

/// The predicate type of an SPDX document (in-toto, "Predicate type: SPDX").
pub const SPDX: &str = "https://spdx.dev/Document";
/// The predicate type of a provenance (SLSA, "Provenance", v1).
pub const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
/// How to read the provenance's parameters: docs/sbom.md says what each is.
const BUILD_TYPE: &str = "https://imgbuild.dev/build/v1";
const BUILDER: &str = "https://imgbuild.dev/imgbuild";

/// A statement about the image of that digest.
pub fn statement(subject: &Digest, predicate_type: &str, predicate: Value) -> Value {
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "image", "digest": {"sha256": subject.hex()}}],
        "predicateType": predicate_type,
        "predicate": predicate,
    })
}

/// The provenance: what was chosen, what it came to, and what built it. It tells neither of the
/// machine nor of the time, so that the same build gives the same bytes.
pub fn provenance(subject: &Subject, materials: &Materials) -> Value {
    let base = subject.base.iter().map(base_dependency);
    let packages = materials.components.iter().map(dependency);
    let dependencies: Vec<Value> = base.chain(packages).collect();
    json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": materials.choices,
            "internalParameters": {},
            "resolvedDependencies": dependencies,
        },
        "runDetails": {
            "builder": {
                "id": BUILDER,
                "version": {"imgbuild": env!("CARGO_PKG_VERSION")},
            },
        },
    })
}

fn base_dependency(base: &Base) -> Value {
    let mut dependency = json!({"name": "base image", "digest": {"sha256": base.digest.hex()}});
    let named = base.name.as_deref();
    if let Some(uri) = named.and_then(|name| of_base(name, Some(&base.digest))) {
        dependency["uri"] = uri.into();
    }
    dependency
}

fn dependency(component: &Component) -> Value {
    let mut dependency = json!({"name": component.name, "uri": of_component(component)});
    if let Some(url) = component.download() {
        dependency["downloadLocation"] = url.into();
    }
    let sums = [
        ("sha256", component.sha256.as_ref().map(Digest::hex)),
        ("md5", component.md5.clone()),
    ];
    for (kind, hex) in sums {
        if let Some(hex) = hex {
            dependency["digest"][kind] = hex.into();
        }
    }
    dependency
}
