//! What we depend on keeps to `deny.toml`: licences, sources, one version of each crate. No dependency asks for a newer
//! compiler than we do.
//!
//! Without network, and as far as this platform goes where a manifest is needed.
//! Not here: advisories, which take a database (`docs/releasing.md`).

use std::{collections::BTreeMap, env, fs, process::Command};

use serde::{Deserialize, de::DeserializeOwned};

#[derive(Deserialize)]
struct Deny {
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    skip: Vec<Skip>,
}

#[derive(Deserialize)]
struct Skip {
    #[serde(rename = "crate")]
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    /// `None` for our own.
    source: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    rust_version: Option<String>,
}

fn read<T: DeserializeOwned>(file: &str) -> T {
    let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    toml::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Standard output of a command that succeeds.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every package that a build for this platform may need, its tests included.
fn packages() -> Vec<Package> {
    let version = output("rustc", &["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("a line for the host");
    // Other platforms' crates are not there on a machine that has only built.
    let arguments =
        ["metadata", "--format-version=1", "--all-features", "--locked", "--offline", "--filter-platform", host];
    let cargo = env::var("CARGO").expect("cargo runs the tests");
    serde_json::from_str::<Metadata>(&output(&cargo, &arguments)).unwrap().packages
}

/// Major and minor number of a version; the rest matters to no compiler.
fn minor(version: &str) -> (u32, u32) {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap_or(0))
}

#[test]
fn every_licence_is_allowed_and_every_allowed_one_is_needed() {
    let allowed = read::<Deny>("deny.toml").licenses.allow;
    let is_met = |license: &str, allowed: &[String]| {
        let expression = spdx::Expression::parse_mode(license, spdx::ParseMode::LAX).unwrap();
        let allowed: Vec<_> = allowed.iter().map(|name| spdx::Licensee::parse(name).unwrap()).collect();
        expression.evaluate(|wanted| allowed.iter().any(|allowed| allowed.satisfies(wanted)))
    };
    let packages = packages();
    let license = |package: &Package| {
        let Package { name, version, license, .. } = package;
        license.clone().unwrap_or_else(|| panic!("{name} {version} has no licence in its manifest"))
    };
    for package in &packages {
        let license = license(package);
        assert!(is_met(&license, &allowed), "{} {}: {license}", package.name, package.version);
    }
    for name in &allowed {
        let others: Vec<_> = allowed.iter().filter(|other| *other != name).cloned().collect();
        let needs_it = packages.iter().any(|package| !is_met(&license(package), &others));
        assert!(needs_it, "nobody needs {name} any more: take it out of deny.toml");
    }
}

#[test]
fn every_crate_comes_from_where_it_may_and_in_one_version() {
    let Deny { bans, sources, .. } = read("deny.toml");
    let lock: Lock = read("Cargo.lock");
    let mut versions = BTreeMap::<_, Vec<_>>::new();
    for Locked { name, version, source } in &lock.package {
        if let Some(source) = source {
            let registry = source.strip_prefix("registry+").unwrap_or(source);
            assert!(sources.allow_registry.iter().any(|allowed| allowed == registry), "{name} {version}: {source}");
        }
        versions.entry(name).or_default().push(version);
    }
    let mut skips: Vec<_> = bans.skip.iter().map(|skip| skip.name.split_once('@').expect("name@version")).collect();
    for (name, mut versions) in versions {
        if versions.len() > 1 {
            // `0.2` is every 0.2.x, `2` is every 2.x, as in cargo-deny.
            versions.retain(|version| {
                let is_skip = |(of, skip): &(&str, &str)| of == name && version.starts_with(&format!("{skip}."));
                let skip = skips.iter().position(is_skip);
                skip.map(|at| skips.remove(at)).is_none()
            });
        }
        assert!(versions.len() <= 1, "{name} is there as {versions:?}: agree on one, or give a reason in deny.toml");
    }
    assert!(skips.is_empty(), "not there twice any more: take {skips:?} out of deny.toml");
}

/// Once for clippy and cargo (`rust-version`), and in words for whoever reads.
#[test]
fn no_dependency_asks_for_a_newer_compiler_than_we_do() {
    let packages = packages();
    let ours =
        packages.iter().find(|package| package.name == "rot13d").and_then(|package| package.rust_version.clone());
    let ours = ours.expect("rust-version in Cargo.toml");
    for Package { name, version, rust_version, .. } in &packages {
        let asked = rust_version.as_deref().unwrap_or("1.0");
        assert!(minor(asked) <= minor(&ours), "{name} {version} asks for Rust {asked}, we for {ours}");
    }
    for page in ["README.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(format!("{}/{page}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(text.contains(&format!("Rust {ours} ")), "{page} does not say \"Rust {ours} \"");
    }
}
