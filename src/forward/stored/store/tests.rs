//! Tests of how the spool of a forward is found at a start: none is made in the place of one that there was.

use std::fs;

use super::*;
use crate::spool::Damage;

/// Is a site's directories: `state`, and a disk for the spools that may be gone.
struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn place(&self, name: &str) -> Place {
        Place {
            name: name.to_owned(),
            key: SpoolKeyFile::File(self.path("key")),
            directory: self.path("disk"),
            register: Register::new(&self.path("state")),
            destination: Some(Destination { peer_key: [7; 32], target: "orders".into() }),
            moved_to: None,
            limits: Limits { messages_max: 10, bytes_max: 1 << 20, keep_delivered: Duration::ZERO },
        }
    }

    fn open(&self, name: &str) -> Result<Arc<Spool>, SpoolError> {
        open(&self.place(name), None, None).map(|(spool, _)| spool)
    }

    /// Fills a spool with a message, and closes it.
    async fn filled(&self, name: &str) {
        self.open(name).unwrap().keep(b"MSH|^~\\&|A|B|C|D|1||ORU|7|P|2.5\r".to_vec()).await.unwrap();
    }

    fn depth(&self, name: &str) -> u64 {
        self.open(name).unwrap().tail().borrow().depth
    }
}

#[tokio::test]
async fn where_the_disk_is_not_mounted_nothing_is_made_and_later_all_is_there() {
    let site = Site::new();
    site.filled("orders").await;
    fs::rename(site.path("disk"), site.path("elsewhere")).unwrap();
    fs::create_dir(site.path("disk")).unwrap();
    assert!(matches!(site.open("orders"), Err(SpoolError::Gone { path }) if path == site.path("disk/orders")));
    // A new forward would have its spool below the mount point.
    assert!(matches!(site.open("images"), Err(SpoolError::NoneThere { path }) if path == site.path("disk")));
    assert_eq!(fs::read_dir(site.path("disk")).unwrap().count(), 0);
    // Nor is a key made for what is not there.
    fs::rename(site.path("key"), site.path("kept")).unwrap();
    assert!(matches!(site.open("orders"), Err(SpoolError::KeyMissing { .. })));
    fs::rename(site.path("kept"), site.path("key")).unwrap();
    fs::remove_dir(site.path("disk")).unwrap();
    assert!(matches!(site.open("orders"), Err(SpoolError::Gone { .. })));
    fs::rename(site.path("elsewhere"), site.path("disk")).unwrap();
    assert_eq!((site.depth("orders"), site.depth("images")), (1, 0));
}

#[tokio::test]
async fn a_deleted_database_is_told_until_it_is_given_up() {
    let site = Site::new();
    site.filled("orders").await;
    site.filled("images").await;
    for left in ["", "cut"] {
        fs::remove_file(site.path("disk/orders/spool.db")).unwrap();
        if !left.is_empty() {
            fs::write(site.path("disk/orders/spool.db"), "").unwrap();
        }
        let told = site.open("orders");
        match left {
            "" => assert!(matches!(told, Err(SpoolError::Gone { .. })), "it is missing"),
            _ => assert!(matches!(told, Err(SpoolError::Damaged { damage: Damage::Empty, .. })), "it is empty"),
        }
        // Another forward goes on, and a new one is made.
        assert_eq!((site.depth("images"), site.depth("results")), (1, 0));
        let aside = site.place("orders").register.give_up("orders", &site.path("disk")).unwrap();
        assert!(aside.is_some_and(|aside| aside.join("mark").exists()), "what is left is kept");
        assert_eq!(site.depth("orders"), 0);
    }
    let names = site.place("orders").register.names().unwrap();
    assert_eq!(names.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["images", "orders", "results"]);
}

#[tokio::test]
async fn another_spool_in_the_place_of_the_own_one_is_told() {
    let site = Site::new();
    site.filled("orders").await;
    site.filled("images").await;
    fs::rename(site.path("disk/orders"), site.path("orders")).unwrap();
    fs::rename(site.path("disk/images"), site.path("disk/orders")).unwrap();
    assert!(matches!(site.open("orders"), Err(SpoolError::OtherSpool { .. })));
    fs::rename(site.path("disk/orders"), site.path("disk/images")).unwrap();
    fs::rename(site.path("orders"), site.path("disk/orders")).unwrap();
    assert_eq!((site.depth("orders"), site.depth("images")), (1, 1));
}

#[tokio::test]
async fn a_spool_from_before_there_was_a_register_is_taken_up_and_registered() {
    let site = Site::new();
    site.filled("orders").await;
    fs::remove_dir_all(site.path("state")).unwrap();
    assert_eq!(site.depth("orders"), 1);
    fs::remove_dir_all(site.path("disk")).unwrap();
    assert!(matches!(site.open("orders"), Err(SpoolError::Gone { .. })));
}
