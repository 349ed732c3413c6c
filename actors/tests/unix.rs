//! Unix sockets: who may connect to a path, who may take it over, and what is left of it at the end.
//!
//! Not here: sessions over one (`listeners`), several processes that start at once (the server's own tests).

use std::{
    fs::{self, File},
    io,
    os::unix::{
        fs::{MetadataExt, symlink},
        net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use actix_lines::{BindError, LineServer, Listener, Rot13};
use proptest::prelude::*;

use crate::{
    folder::Folder,
    support::{Server, within},
};

#[path = "support/folder.rs"]
mod folder;
mod support;

impl Folder {
    fn socket(&self) -> PathBuf {
        self.path("socket")
    }
}

/// The listener, bound; or why not.
fn bind(listener: Listener) -> Result<impl Sized, BindError> {
    LineServer::new(|_| Rot13).listen(listener)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_path_is_this_users_alone_unless_another_mode_is_set() {
    let folder = Folder::new("unix-mode");
    let path = folder.socket();
    let bound = bind(Listener::unix(&path)).unwrap();
    assert_eq!(mode(&path), 0o600);
    drop(bound);
    for other in [0o660, 0o666, 0o777, 0o000, 0o240] {
        let bound = bind(Listener::unix(&path).unix_mode(other)).unwrap();
        assert_eq!(mode(&path), other, "whatever the umask is");
        drop(bound);
        assert!(!path.exists());
    }
    let error = bind(Listener::unix(&path).unix_mode(0o1660)).map(drop).unwrap_err();
    let text = format!("mode 1660 of unix:{} is none of permissions: use 0 to 777, octal", path.display());
    assert_eq!((error.to_string(), io::Error::from(error).kind()), (text, io::ErrorKind::InvalidInput));
    assert!(!path.exists());
}

#[test]
fn owner_and_group_are_set_or_an_error_says_why_not() {
    let folder = Folder::new("unix-owner");
    let path = folder.socket();
    let (own_uid, own_gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let bound = bind(Listener::unix(&path).unix_owner(own_uid).unix_group(own_gid).unix_mode(0o660)).unwrap();
    let file = fs::symlink_metadata(&path).unwrap();
    assert_eq!((file.uid(), file.gid(), mode(&path)), (own_uid, own_gid, 0o660));
    drop(bound);
    let others = bind(Listener::unix(&path).unix_owner(4711).unix_group(4712));
    if own_uid == 0 {
        let bound = others.unwrap();
        let file = fs::symlink_metadata(&path).unwrap();
        assert_eq!((file.uid(), file.gid(), mode(&path)), (4711, 4712, 0o600));
        drop(bound);
    } else {
        let error = others.map(drop).unwrap_err();
        assert!(matches!(&error, BindError::UnixAccess { setting: "owner", .. }), "{error:?}");
    }
    assert!(!path.exists());
}

#[test]
fn settings_of_a_path_are_an_error_without_one() {
    for (listener, text) in [
        (
            Listener::tcp("127.0.0.1:0").unix_mode(0o660),
            "unix_mode is set for [127.0.0.1:0], which has no such setting: leave it out",
        ),
        (Listener::at("127.0.0.1:0").unix_owner(1), "unix_owner is set for 127.0.0.1:0, which"),
        (
            Listener::at("unix:@actix-lines-unsuited").unix_group(1),
            "unix_group is set for unix:@actix-lines-unsuited, ",
        ),
        (Listener::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap()).unix_mode(0o600), "an inherited socket"),
        (Listener::at("127.0.0.1:0").only_v6(true), "only_v6 is set for 127.0.0.1:0, which"),
        (Listener::at("unix:x").only_v6(false), "only_v6 is set for unix:x, which"),
    ] {
        let error = bind(listener).map(drop).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[actix::test]
async fn a_path_that_a_server_left_behind_is_taken_over() {
    let folder = Folder::new("unix-stale");
    let path = folder.socket();
    drop(UnixListener::bind(&path).unwrap());
    assert!(UnixStream::connect(&path).is_err());
    let server = Server::of(LineServer::new(|_| Rot13).listen(Listener::unix(&path)).unwrap()).await;
    drop(UnixStream::connect(&path).unwrap());
    server.end().await;
    assert!(!path.exists());
}

#[test]
fn a_path_that_is_listened_on_is_an_error_and_its_server_does_not_notice() {
    let folder = Folder::new("unix-live");
    let path = folder.socket();
    let live = UnixListener::bind(&path).unwrap();
    let error = bind(Listener::unix(&path)).map(drop).unwrap_err();
    let text = format!(
        "cannot listen on unix:{}: another process listens there; end it, or choose another path",
        path.display()
    );
    assert_eq!((error.to_string(), io::Error::from(error).kind()), (text, io::ErrorKind::AddrInUse));
    live.set_nonblocking(true).unwrap();
    assert_eq!(live.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "nobody connected to it");
    UnixStream::connect(&path).unwrap();
    // So is one of another kind.
    fs::remove_file(&path).unwrap();
    let _packets = UnixDatagram::bind(&path).unwrap();
    assert!(matches!(bind(Listener::unix(&path)).map(drop), Err(BindError::InUse { .. })));
    assert!(path.exists());
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let folder = Folder::new("unix-others");
    let path = folder.socket();
    let stale = folder.path("stale");
    drop(UnixListener::bind(&stale).unwrap());
    let makes: [(&str, &dyn Fn()); 4] = [
        ("a file", &|| drop(File::create(&path).unwrap())),
        ("a folder", &|| fs::create_dir(&path).unwrap()),
        ("a link to nothing", &|| symlink(folder.path("nothing"), &path).unwrap()),
        ("a link to a socket", &|| symlink(&stale, &path).unwrap()),
    ];
    for (what, make) in makes {
        make();
        let before = fs::symlink_metadata(&path).unwrap().ino();
        let error = bind(Listener::unix(&path)).map(drop).unwrap_err();
        let text = format!(
            "cannot listen on unix:{}: what is there is no socket, and stays; remove it, or choose another path",
            path.display()
        );
        assert_eq!(error.to_string(), text, "{what}");
        let after = fs::symlink_metadata(&path).unwrap();
        assert_eq!(after.ino(), before, "{what}");
        if after.is_dir() { fs::remove_dir(&path).unwrap() } else { fs::remove_file(&path).unwrap() }
    }
    assert!(stale.exists());
}

#[test]
fn of_many_that_start_on_one_stale_path_exactly_one_listens() {
    let folder = Folder::new("unix-race");
    let path = folder.socket();
    for round in 0..50 {
        drop(UnixListener::bind(&path).unwrap());
        let (start, end) = (std::sync::Barrier::new(8), std::sync::Barrier::new(9));
        let (ready, won) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let (path, start, end, ready) = (&path, &start, &end, ready.clone());
                scope.spawn(move || {
                    start.wait();
                    let bound = bind(Listener::unix(path));
                    let is_bound = match &bound {
                        Ok(_) => true,
                        Err(BindError::InUse { .. }) => false,
                        Err(error) => panic!("{error}"),
                    };
                    ready.send(is_bound).unwrap();
                    // Nobody ends before all have tried.
                    end.wait();
                    drop(bound);
                });
            }
            let winners = won.iter().take(8).filter(|won| *won).count();
            let connected = UnixStream::connect(&path);
            end.wait();
            assert_eq!(winners, 1, "round {round}");
            connected.expect("it listens");
        });
        assert!(!path.exists(), "round {round}");
    }
}

#[actix::test]
async fn a_relative_path_is_removed_from_wherever_it_was() {
    let folder = Folder::new("unix-relative");
    let name = format!("actix-lines-relative-{}", std::process::id());
    let server = LineServer::new(|_| Rot13).bind(format!("unix:{name}")).unwrap().start().unwrap();
    assert_eq!(server.listeners()[0].local_addr.to_string(), format!("unix:{name}"));
    let absolute = std::env::current_dir().unwrap().join(&name);
    assert!(absolute.exists());
    let before = std::env::current_dir().unwrap();
    std::env::set_current_dir(&folder.0).unwrap();
    within("the end of the server", server.abort()).await.unwrap();
    within("the end of the workers", server.wait()).await.unwrap();
    std::env::set_current_dir(before).unwrap();
    assert!(!absolute.exists());
}

#[actix::test]
async fn a_listener_that_is_replaced_has_the_permissions_that_it_asks_for_then() {
    let folder = Folder::new("unix-replaced");
    let path = folder.socket();
    let listener = || Listener::unix(&path);
    let server = LineServer::new(|_| Rot13).listen(listener().unix_mode(0o666)).unwrap().start().unwrap();
    let id = server.listeners()[0].id;
    let inode = fs::symlink_metadata(&path).unwrap().ino();
    for (replacement, expected) in [(listener().unix_mode(0o660), 0o660), (listener(), 0o600)] {
        server.replace_listener(id, replacement).await.unwrap();
        assert_eq!((mode(&path), fs::symlink_metadata(&path).unwrap().ino()), (expected, inode));
    }
    let error = server.replace_listener(id, listener().unix_mode(0o1660)).await.unwrap_err();
    assert!(matches!(error, BindError::UnixMode { .. }), "{error}");
    let error = server.replace_listener(id, listener().only_v6(true)).await.unwrap_err();
    assert!(matches!(error, BindError::Unsuited { setting: "only_v6", .. }), "{error}");
    assert_eq!(mode(&path), 0o600);
    within("the end of the server", server.abort()).await.unwrap();
    within("the end of the workers", server.wait()).await.unwrap();
    assert!(!path.exists());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn each_mode_is_set_as_it_was_asked_for(asked in 0_u32..=0o777) {
        let folder = Folder::new("unix-each");
        let bound = bind(Listener::unix(folder.socket()).unix_mode(asked)).unwrap();
        prop_assert_eq!(mode(&folder.socket()), asked);
        drop(bound);
    }
}
