//! The store: what is written is read again, and what cannot be read is left as it is.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use rand::{SeedableRng, rngs::StdRng};
use redb::backends::FileBackend;
use tempfile::TempDir;

use super::*;
use crate::{model::tests::two_networks_and_an_endpoint, testing::opened};

fn open(directory: &TempDir) -> Result<(Store, Model), StoreError> {
    opened(directory.path(), &mut StdRng::seed_from_u64(7))
}

#[test]
fn what_was_written_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, empty) = open(&directory).unwrap();
    let (model, secret) = (two_networks_and_an_endpoint(), store.secret());
    assert_eq!(empty, Model::default());

    store.write(&empty, &model).unwrap();
    drop(store);

    let (store, read) = opened(directory.path(), &mut StdRng::seed_from_u64(8)).unwrap();
    assert_eq!(read, model);
    assert_eq!(store.secret(), secret);
}

#[test]
fn rows_that_are_gone_from_the_model_are_gone_from_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, empty) = open(&directory).unwrap();
    let model = two_networks_and_an_endpoint();
    store.write(&empty, &model).unwrap();

    store.write(&model, &empty).unwrap();
    drop(store);

    assert_eq!(open(&directory).unwrap().1, empty);
}

#[test]
fn a_second_daemon_on_one_store_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _first = open(&directory).unwrap();

    let second = Store::open(directory.path(), &mut StdRng::seed_from_u64(8));
    let refusal = second.err().unwrap().to_string();

    assert!(refusal.contains("is open in another netd"), "{refusal}");
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_as_it_is() {
    let garbage = [Vec::new(), b"not a store".to_vec(), vec![0xa5; 1 << 16]];
    for content in garbage {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        fs::write(&path, &content).unwrap();

        let refusal = open(&directory).err().unwrap().to_string();

        assert!(refusal.contains("is damaged") && refusal.contains("move it away"), "{refusal}");
        assert!(!refusal.contains('\n'));
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

#[test]
fn a_store_that_was_cut_off_or_overwritten_in_part_is_refused_or_read_and_never_a_panic() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, empty) = open(&directory).unwrap();
    let model = two_networks_and_an_endpoint();
    store.write(&empty, &model).unwrap();
    drop(store);
    let path = directory.path().join(FILE);
    let whole = fs::read(&path).unwrap();

    let cut = [1, 100, 4096, whole.len() / 2, whole.len() - 1].map(|length| whole[..length].to_vec());
    let overwritten = (0..whole.len()).step_by(512).map(|at| {
        let mut content = whole.clone();
        let end = (at + 64).min(content.len());
        content[at..end].fill(0xff);
        content
    });
    for content in cut.into_iter().chain(overwritten) {
        fs::write(&path, &content).unwrap();
        match open(&directory) {
            Ok((_, read)) => assert_eq!(read, model),
            Err(refusal) => assert!(refusal.to_string().contains("is damaged"), "{refusal}"),
        }
    }
}

#[test]
fn a_newer_store_is_refused_and_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(&directory).unwrap();
    let transaction = store.database.as_ref().unwrap().begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("format", FORMAT + 1).unwrap();
    transaction.open_table(NETWORKS).unwrap().insert("web", b"of the future".as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(store);
    let path = directory.path().join(FILE);
    let before = fs::read(&path).unwrap();

    let refusal = open(&directory).err().unwrap().to_string();

    assert_eq!(
        refusal,
        format!(
            "the store {} has format 3, newer than this netd's 2: use the netd that wrote it, or move it away and start anew",
            path.display()
        )
    );
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_field_that_is_not_known_in_whatever_depth_is_named_and_the_store_stays_as_it_is() {
    type Place = fn(&mut serde_json::Value) -> &mut serde_json::Value;
    let places: [(_, &str, Place); 4] = [
        (NETWORKS, "later", |network| network),
        (NETWORKS, "subnets.0.later", |network| &mut network["subnets"][0]),
        (ENDPOINTS, "publications.0.later", |endpoint| &mut endpoint["publications"][0]),
        (ENDPOINTS, "attachments.0.later", |endpoint| &mut endpoint["attachments"][0]),
    ];
    for (table, field, place) in places {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, empty) = open(&directory).unwrap();
        store.write(&empty, &two_networks_and_an_endpoint()).unwrap();
        let database = store.database.as_ref().unwrap();
        let mut rows: BTreeMap<Name, serde_json::Value> = read_table(database, table, |row| row).unwrap();
        let (name, row) = rows.iter_mut().next().unwrap();
        place(row)["later"] = true.into();
        let named = format!("(`{field}` in the row of {name})");
        let transaction = database.begin_write().unwrap();
        write_table(&transaction, table, &BTreeMap::new(), &rows).unwrap();
        transaction.commit().unwrap();
        drop(store);
        let path = directory.path().join(FILE);
        let before = fs::read(&path).unwrap();

        let refusal = open(&directory).err().unwrap().to_string();

        assert!(
            refusal.contains(&named) && refusal.contains("a newer one") && refusal.contains("move it away"),
            "{refusal}"
        );
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}

#[test]
fn what_a_newer_one_has_kept_beside_the_model_is_named_with_a_way_out_and_stays_as_it_is() {
    #[derive(Debug, Serialize, serde::Deserialize)]
    struct Kept {
        session: u8,
    }
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&directory).unwrap();
    store.keep(&Kept { session: 7 }).unwrap();
    assert_eq!(store.kept::<Kept>().unwrap().unwrap().session, 7);
    let newer = serde_json::json!({ "session": 7, "later": true });
    store.keep(&newer).unwrap();
    drop(store);

    let (mut store, _) = open(&directory).unwrap();
    let refusal = format!("{:#}", store.kept::<Kept>().unwrap_err());

    for words in ["(`later` in the row of session)", "a newer one", "move it away"] {
        assert!(refusal.contains(words), "{refusal}");
    }
    assert_eq!(store.kept::<serde_json::Value>().unwrap(), Some(newer));
}

/// A file on a disk that has no room when it is to be sure of what was written.
#[derive(Debug)]
struct Full {
    file: FileBackend,
    is_full: Arc<AtomicBool>,
}

impl Full {
    /// Has the store's file be on such a disk until it is opened anew.
    fn for_once(store: &mut Store) {
        store.database = None;
        let file = File::options().read(true).write(true).open(&store.path).unwrap();
        let is_full = Arc::new(AtomicBool::new(false));
        let full = Self { file: FileBackend::new(file).unwrap(), is_full: Arc::clone(&is_full) };
        store.database = Some(Database::builder().create_with_backend(full).unwrap());
        is_full.store(true, Ordering::Relaxed);
    }
}

impl StorageBackend for Full {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }
}

#[test]
fn what_is_kept_is_read_and_written_again_once_a_full_disk_has_room() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, empty) = open(&directory).unwrap();
    let refused: [fn(&mut Store, &Model) -> Result<()>; 2] =
        [|store, _| store.keep(&2), |store, empty| store.write(empty, &two_networks_and_an_endpoint())];
    for (refused, next) in refused.into_iter().zip(3..) {
        store.keep(&1).unwrap();
        Full::for_once(&mut store);
        let refusal = format!("{:#}", refused(&mut store, &empty).unwrap_err());
        assert!(refusal.contains("cannot write the store"), "{refusal}");

        assert!([1, 2].contains(&store.kept::<u8>().unwrap().unwrap()), "of what failed the disk may have all");
        store.keep(&next).unwrap();
        assert_eq!(store.kept::<u8>().unwrap(), Some(next));
    }
}

#[test]
fn what_the_disk_has_of_a_change_that_failed_goes_with_the_next_change_also_if_it_was_opened_in_between() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, empty) = open(&directory).unwrap();
    let model = two_networks_and_an_endpoint();
    Full::for_once(&mut store);
    store.write(&empty, &model).unwrap_err();
    store.keep(&1).unwrap();

    let mut next = model.clone();
    next.endpoints.clear();
    next.networks.pop_last();
    store.write(&empty, &next).unwrap();
    drop(store);

    assert_eq!(open(&directory).unwrap().1, next);
}

#[test]
fn a_row_that_is_not_understood_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(&directory).unwrap();
    let transaction = store.database.as_ref().unwrap().begin_write().unwrap();
    transaction.open_table(ENDPOINTS).unwrap().insert("c1", b"{".as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(store);

    let refusal = open(&directory).err().unwrap().to_string();

    assert!(refusal.contains("the row of c1"), "{refusal}");
}

#[test]
fn a_store_of_the_first_format_is_read_and_written_as_this_one() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, empty) = open(&directory).unwrap();
    let model = two_networks_and_an_endpoint();
    store.write(&empty, &model).unwrap();
    as_first_format(store.database.as_ref().unwrap());
    drop(store);

    let (store, read) = open(&directory).unwrap();

    assert_eq!(read, model);
    let site = store.global_id();
    drop(store);
    let (store, again) = open(&directory).unwrap();
    assert_eq!((again, store.global_id()), (model, site));
    let table = store.database.as_ref().unwrap().begin_read().unwrap().open_table(META).unwrap();
    assert_eq!(table.get("format").unwrap().unwrap().value(), FORMAT);
}

#[test]
fn a_store_that_does_not_say_what_was_given_back_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, empty) = open(&directory).unwrap();
    let model = two_networks_and_an_endpoint();
    store.write(&empty, &model).unwrap();
    let database = store.database.as_ref().unwrap();
    let mut rows: BTreeMap<Name, serde_json::Value> = read_table(database, NETWORKS, |row| row).unwrap();
    for row in rows.values_mut() {
        row["subnets"][0].as_object_mut().unwrap().remove("freed").expect("this format says it");
    }
    let transaction = database.begin_write().unwrap();
    write_table(&transaction, NETWORKS, &BTreeMap::new(), &rows).unwrap();
    transaction.commit().unwrap();
    drop(store);

    assert_eq!(open(&directory).unwrap().1, model);
}

/// Writes the rows as the first format had them.
fn as_first_format(database: &Database) {
    let rewritten = |definition, rewrite: fn(&mut serde_json::Value)| {
        let transaction = database.begin_write().unwrap();
        let mut rows: BTreeMap<Name, serde_json::Value> = read_table(database, definition, |row| row).unwrap();
        rows.values_mut().for_each(rewrite);
        write_table(&transaction, definition, &BTreeMap::new(), &rows).unwrap();
        let mut meta = transaction.open_table(META).unwrap();
        meta.insert("format", 1).unwrap();
        meta.remove("global_id").unwrap();
        drop(meta);
        transaction.commit().unwrap();
    };
    rewritten(NETWORKS, |network| {
        let network = network.as_object_mut().unwrap();
        let subnets = network.remove("subnets").unwrap();
        network.extend(subnets[0].as_object().unwrap().clone());
        for later in ["freed", "gateway_mode"] {
            network.remove(later).expect("this format says it");
        }
    });
    rewritten(ENDPOINTS, |endpoint| {
        endpoint["publications"][0]["host_ip"] = serde_json::Value::Null;
        endpoint["publications"][0].as_object_mut().unwrap().remove("direct");
        for attachment in endpoint["attachments"].as_array_mut().unwrap() {
            attachment.as_object_mut().unwrap().remove("ip6");
        }
    });
}
