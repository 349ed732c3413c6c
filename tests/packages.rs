//! What `packaging/` builds is whole, installs in a clean system, runs there as its user, and leaves nothing behind.
//!
//! Not here: the units themselves (`service`), the release as a whole, which takes two optimised builds (`docs/releasing.md`).
#![cfg(all(feature = "dist", target_os = "linux"))]

mod support;

use std::{
    env,
    fmt::Write as _,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use rustix::process::{Signal, getuid};
use support::{Server, converse, finish, tr};

/// A folder of this file's, that is gone in the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("rot13d-packages-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn join(&self, name: &str) -> String {
        self.0.join(name).into_os_string().into_string().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Runs a command that has to succeed within ten minutes, and returns what it prints.
#[track_caller]
fn run(words: &[&str]) -> String {
    let Output { status, stdout, stderr } = output(words);
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{words:?}: {status}\n{stdout}{stderr}");
    stdout.into_owned()
}

#[track_caller]
fn output(words: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.arg("600").args(words).stdin(Stdio::null()).env("LC_ALL", "C.UTF-8");
    // Standard output and error are read to their ends.
    command.output().unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// The package, built once for all tests around the program under test.
fn deb() -> &'static str {
    static DEB: OnceLock<String> = OnceLock::new();
    DEB.get_or_init(|| {
        let folder = concat!(env!("CARGO_TARGET_TMPDIR"), "/deb");
        run(&["packaging/deb", env!("CARGO_BIN_EXE_rot13d"), folder]);
        let version = env!("CARGO_PKG_VERSION");
        let architecture = run(&["dpkg", "--print-architecture"]);
        format!("{folder}/rot13d_{version}-1_{}.deb", architecture.trim())
    })
}

/// Says why a test cannot run here, if it cannot.
fn cannot_mount() -> bool {
    let why = if !getuid().is_root() {
        "this takes root"
    } else if !output(&["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]).status.success() {
        "mounts are not allowed here"
    } else {
        return false;
    };
    eprintln!("not run: {why}");
    true
}

#[test]
#[ignore = "needs cargo-deb and lintian; tests/run runs it"]
fn the_debian_package_has_all_that_a_service_needs() {
    let files = run(&["dpkg-deb", "--contents", deb()]);
    for file in [
        "-rwxr-xr-x 0/0 ./usr/bin/rot13d",
        "-rw-r--r-- 0/0 ./etc/rot13d/rot13d.toml",
        "-rw-r--r-- 0/0 ./usr/lib/systemd/system/rot13d.service",
        "-rw-r--r-- 0/0 ./usr/lib/sysusers.d/rot13d.conf",
        "-rw-r--r-- 0/0 ./usr/share/man/man1/rot13d.1.gz",
        "-rw-r--r-- 0/0 ./usr/share/man/man1/rot13d-ctl.1.gz",
        "-rw-r--r-- 0/0 ./usr/share/man/man5/rot13d.toml.5.gz",
        "-rw-r--r-- 0/0 ./usr/share/bash-completion/completions/rot13d",
        "-rw-r--r-- 0/0 ./usr/share/zsh/vendor-completions/_rot13d",
        "-rw-r--r-- 0/0 ./usr/share/fish/vendor_completions.d/rot13d.fish",
        "-rw-r--r-- 0/0 ./usr/share/doc/rot13d/copyright",
        "-rw-r--r-- 0/0 ./usr/share/doc/rot13d/changelog.gz",
        "-rw-r--r-- 0/0 ./usr/share/doc/rot13d/third-party.txt",
        "-rw-r--r-- 0/0 ./usr/share/doc/rot13d/rot13d.cdx.json",
    ] {
        let words: Vec<_> = file.split(' ').collect();
        let is_it = |line: &str| words.iter().all(|word| line.split_whitespace().any(|other| other == *word));
        assert!(files.lines().any(is_it), "{file} is not in\n{files}");
    }
    assert_eq!(run(&["dpkg-deb", "--info", deb(), "conffiles"]), "/etc/rot13d/rot13d.toml\n");
    let materials = fs::read_to_string("target/package/rot13d.cdx.json").unwrap();
    assert!(!materials.contains(env!("CARGO_MANIFEST_DIR")), "no path of this machine");
    let materials: serde_json::Value = serde_json::from_str(&materials).unwrap();
    let components = materials["components"].as_array().unwrap();
    for name in ["actix", "mimalloc", "rustls", "tokio"] {
        let component = components.iter().find(|component| component["name"] == name);
        let component = component.unwrap_or_else(|| panic!("{name} is linked"));
        assert_eq!(component["hashes"][0]["content"].as_str().map(str::len), Some(64), "{component}");
        assert!(
            component["licenses"][0]["expression"].as_str().is_some_and(|words| words.contains("MIT")),
            "{component}"
        );
    }
    for name in ["proptest", "syn"] {
        assert!(!components.iter().any(|component| component["name"] == name), "{name} is not in the program");
    }
    let depends = run(&["dpkg-deb", "--field", deb(), "Depends"]);
    assert!(depends.starts_with("libc6 (>= 2."), "{depends}");
    // The first package of a program closes no bug of Debian's.
    run(&["lintian", "--fail-on", "error,warning", "--suppress-tags", "initial-upload-closes-no-bugs", deb()]);
}

#[test]
#[ignore = "needs cargo-deb; tests/run runs it"]
fn every_relative_link_of_an_installed_page_leads_to_a_file_of_the_package() {
    let folder = Folder::new("links");
    run(&["dpkg-deb", "--extract", deb(), &folder.join("")]);
    let mut looked_at = 0;
    for page in ["operating.md", "monitoring.md", "fleet.md", "README.Debian.md"] {
        let page = folder.0.join("usr/share/doc/rot13d").join(page);
        let text = fs::read_to_string(&page).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')?.0.split('#').next());
        for target in targets.filter(|target| !target.is_empty() && !target.contains("://")) {
            looked_at += 1;
            assert!(page.with_file_name(target).exists(), "{}: {target} is not there", page.display());
        }
    }
    assert!(looked_at > 5, "only {looked_at} links were found: are they written in another way?");
}

#[test]
#[ignore = "needs man and mandoc; tests/run runs it"]
fn both_formatters_of_man_pages_have_nothing_to_say() {
    let folder = Folder::new("man");
    run(&[env!("CARGO_BIN_EXE_rot13d"), "generate", &folder.join("")]);
    let mut pages = 0;
    for page in fs::read_dir(folder.0.join("man")).unwrap() {
        let page = page.unwrap().path().into_os_string().into_string().unwrap();
        assert_eq!(run(&["mandoc", "-T", "lint", "-W", "warning", &page]), "", "{page}");
        let groff = output(&["man", "--warnings", "--local-file", "--encoding=UTF-8", "-Tutf8", "--ditroff", &page]);
        assert_eq!(String::from_utf8_lossy(&groff.stderr), "", "{page}");
        pages += 1;
    }
    assert!(pages >= 2, "only {pages} pages");
}

/// A system with little more than what each Debian has, below a folder.
struct System(Folder);

impl System {
    fn new() -> Self {
        let release = fs::read_to_string("/etc/os-release").unwrap();
        let suite =
            release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).expect("a release of Debian");
        let sources = ["/etc/apt/sources.list", "/etc/apt/sources.list.d/debian.sources"];
        let sources = sources.into_iter().find(|file| fs::metadata(file).is_ok_and(|file| file.len() > 0));
        let folder = Folder::new("system");
        let include = "--include=systemd-standalone-sysusers,passwd";
        run(&[
            "mmdebstrap",
            "-q",
            "--variant=essential",
            include,
            suite,
            &folder.join("root"),
            sources.expect("sources"),
        ]);
        Self(folder)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.0.join("root").join(path.trim_start_matches('/'))
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> String {
        run(&[&["chroot", &self.0.join("root")], words].concat())
    }

    /// Every path in it, and the users; without the logs and spare copies of the programs that install.
    fn inventory(&self) -> String {
        let root = self.0.join("root");
        let files = run(&["find", &root, "-xdev", "-not", "-path", "*/var/log/*", "-not", "-name", "*-"]);
        let mut files: Vec<_> = files.lines().map(|file| file.trim_start_matches(&root)).collect();
        files.sort_unstable();
        let mut all = files.join("\n");
        write!(all, "{}{}", self.read("etc/passwd"), self.read("etc/group")).unwrap();
        all
    }

    fn install(&self, package: &str) {
        fs::copy(package, self.path("package.deb")).unwrap();
        self.run(&["dpkg", "--install", "/package.deb"]);
        fs::remove_file(self.path("package.deb")).unwrap();
    }

    /// The service as its unit starts it: program, user and runtime directory.
    fn service(&self) -> Command {
        let unit = self.read("usr/lib/systemd/system/rot13d.service");
        let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("{key}"));
        let (user, runtime) = (value("User="), format!("/run/{}", value("RuntimeDirectory=")));
        self.run(&["install", "--directory", "--mode", value("RuntimeDirectoryMode="), "--owner", user, &runtime]);
        let mut command = Command::new("chroot");
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("RUNTIME_DIRECTORY", runtime);
        // That of the tests is none.
        command.env("XDG_RUNTIME_DIR", "");
        command.arg(self.0.join("root")).args([
            "setpriv",
            "--reuid",
            user,
            "--regid",
            value("Group="),
            "--init-groups",
        ]);
        command.args(["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]);
        command.args(value("ExecStart=").split(' '));
        command
    }
}

/// The same package, one version later.
fn later(folder: &Folder) -> String {
    let (tree, package) = (folder.join("tree"), folder.join("later.deb"));
    run(&["dpkg-deb", "--raw-extract", deb(), &tree]);
    let control = format!("{tree}/DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap();
    fs::write(&control, text.replace("\nVersion: ", "\nVersion: 1:")).unwrap();
    run(&["dpkg-deb", "-Zgzip", "--root-owner-group", "--build", &tree, &package]);
    package
}

#[test]
#[ignore = "needs cargo-deb and mmdebstrap; tests/run runs it"]
fn the_debian_package_serves_in_a_clean_system_and_leaves_nothing_behind() {
    if cannot_mount() {
        return;
    }
    let system = System::new();
    let before = system.inventory();
    system.install(deb());
    assert!(system.path("etc/systemd/system/multi-user.target.wants/rot13d.service").is_symlink(), "it is enabled");
    system.run(&["rot13d", "--config", "/etc/rot13d/rot13d.toml", "--check-config"]);

    // The tests leave the default port to others.
    let settings = "/etc/rot13d/rot13d.toml";
    let changed = format!("listen = \"127.0.0.1:0\"\n{}", system.read(settings));
    fs::write(system.path(settings), &changed).unwrap();
    let mut server = Server::spawn(system.service());
    let user = fs::metadata(format!("/proc/{}", server.id())).unwrap().uid();
    assert_eq!(user.to_string(), system.run(&["id", "--user", "rot13d"]).trim());
    let input = b"Why did the chicken cross the road?\r\n";
    assert_eq!(converse(server.address, input), tr(input));
    // The console is for root and for the service's user, without a word about where it is.
    let ctl = |user| ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "rot13d", "ctl", "version"];
    for user in ["root", "rot13d"] {
        let said = system.run(&ctl(user));
        assert!(said.contains(env!("CARGO_PKG_VERSION")), "{user}: {said}");
    }
    let root = system.0.join("root");
    let other =
        ["chroot", &root, "setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "rot13d", "ctl"];
    let other = output(&[&other[..], &["version"]].concat());
    assert_eq!(other.status.code(), Some(3), "{other:?}");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().0, Some(0));

    let folder = Folder::new("later");
    system.install(&later(&folder));
    assert_eq!(system.read(settings), changed, "an upgrade keeps what was changed");
    assert!(system.path("etc/systemd/system/multi-user.target.wants/rot13d.service").is_symlink(), "it stays enabled");

    system.run(&["dpkg", "--remove", "rot13d"]);
    assert_eq!(system.read(settings), changed, "a removal keeps the settings");
    assert!(!system.path("usr/bin/rot13d").exists());
    system.run(&["dpkg", "--purge", "rot13d"]);
    // Made by the service manager, and removed by it.
    fs::remove_dir_all(system.path("run/rot13d")).unwrap();
    assert_eq!(system.inventory(), before);
}

/// A container of the image, as far as that goes without a runtime: its files, its user, its words; the rest read-only.
struct Container {
    folder: Folder,
    config: serde_json::Value,
}

impl Container {
    fn new(archive: &str) -> Self {
        let folder = Folder::new("container");
        run(&["tar", "-xf", archive, "-C", &folder.join("")]);
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let manifest: serde_json::Value = serde_json::from_str(&read("manifest.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&read(manifest[0]["Config"].as_str().unwrap())).unwrap();
        fs::create_dir(folder.join("root")).unwrap();
        for layer in manifest[0]["Layers"].as_array().unwrap() {
            run(&["tar", "-xf", &folder.join(layer.as_str().unwrap()), "-C", &folder.join("root")]);
        }
        Self { folder, config: config["config"].clone() }
    }

    fn words(&self, key: &str) -> Vec<&str> {
        self.config[key].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
    }

    /// Runs words as the image's user in its root, read-only but for its volumes, in a namespace of mounts of its own.
    fn command(&self, words: &[&str]) -> Command {
        let root = self.folder.join("root");
        let user = self.config["User"].as_str().unwrap();
        let mut script = String::from("set -e; mount --bind \"$1\" \"$1\"; mount -o remount,bind,ro \"$1\"\n");
        for volume in self.config["Volumes"].as_object().unwrap().keys() {
            // A volume begins with what the image has at its path; that it is read-only is the root's alone.
            writeln!(script, "mount --bind \"$2\" \"$1{volume}\"; mount -o remount,bind,rw \"$1{volume}\"").unwrap();
        }
        script.push_str("root=$1; shift 2; exec chroot --userspec=\"$USERSPEC\" --groups= \"$root\" \"$@\"");
        let volume = self.folder.join("volume");
        if !Path::new(&volume).exists() {
            run(&["install", "--directory", "--mode=700", "--owner=65532", "--group=65532", &volume]);
        }
        let mut command = Command::new("unshare");
        command.env_clear().env("PATH", env::var_os("PATH").unwrap()).env("USERSPEC", user);
        command.envs(
            self.words("Env").into_iter().filter_map(|word| word.split_once('=')).filter(|(name, _)| *name != "PATH"),
        );
        command.env("XDG_RUNTIME_DIR", "").args(["--mount", "sh", "-c", &script, "sh", &root, &volume]).args(words);
        command
    }
}

/// A static program, if the compiler has the target for it.
fn static_program() -> Option<String> {
    let target = format!("{}-unknown-linux-musl", env::consts::ARCH);
    let has_it = run(&["rustc", "--print", "target-libdir", "--target", &target]);
    if !Path::new(has_it.trim()).exists() {
        eprintln!("not run: rustup target add {target}");
        return None;
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "-p", "rot13d", "--bin", "rot13d", "--features", "dist"]);
    // Nobody debugs this one.
    cargo.args(["--target", &target]).env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_INCREMENTAL", "0");
    cargo.env(format!("CC_{}", target.replace('-', "_")), "musl-gcc").env_remove("CARGO_TARGET_DIR");
    let built = cargo.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Some(format!("target/{target}/debug/rot13d"))
}

#[test]
#[ignore = "needs buildah, musl-gcc and rustup; tests/run runs it"]
fn the_container_serves_without_root_a_shell_or_a_place_to_write() {
    let Some(program) = static_program() else { return };
    let folder = Folder::new("image");
    let (one, other) = (folder.join("one.tar"), folder.join("other.tar"));
    for archive in [&one, &other] {
        run(&["packaging/image", &program, archive]);
    }
    assert!(fs::read(&one).unwrap() == fs::read(&other).unwrap(), "the same bytes each time");

    let container = Container::new(&one);
    let mut files = run(&["find", &container.folder.join("root"), "-type", "f", "-printf", "%f\n"]);
    files = files
        .lines()
        .map(str::to_owned)
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect::<Vec<_>>()
        .join(" ");
    assert_eq!(files, "rot13d third-party.txt", "no shell, no libraries");
    assert!(container.config["Healthcheck"]["Test"].is_array());
    let is_root = container.config["User"].as_str().is_none_or(|user| user.starts_with('0') || !user.contains(':'));
    assert!(!is_root, "{}", container.config["User"]);

    if cannot_mount() {
        return;
    }
    let mut words = container.words("Entrypoint");
    // The port of the image is that of every other; this one is free.
    words.extend(["--listen", "127.0.0.1:0"]);
    let mut server = Server::spawn(container.command(&words));
    let status = fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    assert!(status.contains("\nUid:\t65532\t65532\t65532\t65532\n"), "{status}");
    let input = b"Why did the chicken cross the road?\r\n";
    assert_eq!(converse(server.address, input), tr(input));
    let check = container.config["Healthcheck"]["Test"].as_array().unwrap();
    let check: Vec<_> = check.iter().skip(1).map(|word| word.as_str().unwrap()).collect();
    let health = || finish(container.command(&check), b"");
    assert!(health().status.success(), "{:?}", health());
    server.signal(Signal::TERM);
    assert_eq!(server.wait().0, Some(0));
    assert!(!health().status.success(), "of a server that has ended");
}
