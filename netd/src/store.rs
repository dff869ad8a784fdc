//! The model on disk: one embedded file, a row of JSON for each network and endpoint, one transaction for each change.
//!
//! A file that is not understood is refused and never written to.

mod upgrade;

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, anyhow, bail};
use rand::{Rng, RngCore};
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableError,
    WriteTransaction, backends::InMemoryBackend,
};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::model::{Endpoint, Model, Name, Network};

/// Name of the file in the state directory.
pub const FILE: &str = "netd.redb";

/// The layout of the rows. A change that an older netd would misread takes the next number.
const FORMAT: u64 = 2;

const NETWORKS: TableDefinition<&str, &[u8]> = TableDefinition::new("networks");
const ENDPOINTS: TableDefinition<&str, &[u8]> = TableDefinition::new("endpoints");
const KEPT: TableDefinition<&str, &[u8]> = TableDefinition::new("kept");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// The one row of what is kept beside the model.
const SESSION: &str = "session";

/// Why a store is not opened.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("the store {} is open in another netd: stop that one, or give another --state-dir", .0.display())]
    InUse(PathBuf),
    #[error("the store {} has format {found}, newer than this netd's {FORMAT}: use the netd that wrote it, or move it away and start anew", path.display())]
    Newer { path: PathBuf, found: u64 },
    #[error("the store {} has what this netd does not know, as a newer one writes it ({what}): use that one, or move it away and start anew", path.display())]
    Unknown { path: PathBuf, what: Unknown },
    #[error("the store {} is damaged ({why}): move it away and start anew, or put a copy of it back", path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("cannot use the store {}: {why}", path.display())]
    Unusable { path: PathBuf, why: String },
}

/// A field that no row has, which writing the row anew would lose.
#[derive(Debug, Error)]
#[error("`{field}` in the row of {row}")]
pub struct Unknown {
    row: Name,
    field: String,
}

/// The open store.
pub struct Store {
    /// `None` after an error of the disk until it opens again: redb refuses everything after one.
    database: Option<Database>,
    /// Whether the disk has the model that was written last: of a change that failed it may have something.
    is_as_written: bool,
    path: PathBuf,
    drawn: Drawn,
}

/// What was drawn by chance when the store was made, and stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Drawn {
    secret: [u32; 2],
    global_id: u64,
}

impl Drawn {
    fn new(rng: &mut dyn RngCore) -> Self {
        Self { secret: rng.random(), global_id: global_id(rng) }
    }
}

/// Forty bits for unique local addresses (RFC 4193 section 3.2).
fn global_id(rng: &mut dyn RngCore) -> u64 {
    rng.next_u64() >> 24
}

impl Store {
    fn new(database: Database, path: &Path, drawn: Drawn) -> Self {
        Self { database: Some(database), is_as_written: true, path: path.to_owned(), drawn }
    }

    /// Opens the store of a state directory, or makes one, and reads the model. The secret is drawn once.
    pub fn open(state_dir: &Path, rng: &mut dyn RngCore) -> Result<(Self, Model), StoreError> {
        let path = state_dir.join(FILE);
        let damaged = |why: String| StoreError::Damaged { path: path.clone(), why };
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() == 0 => Err(damaged("it is empty".to_owned())),
            Ok(_) => existing(&path, rng),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => made(&path, rng),
            Err(error) => Err(StoreError::Unusable { path: path.clone(), why: error.to_string() }),
        }
    }

    /// The key of the datapath's hash, the same as long as the store lives.
    pub fn secret(&self) -> [u32; 2] {
        self.drawn.secret
    }

    /// The Global ID of this node's unique local addresses, the same as long as the store lives.
    pub fn global_id(&self) -> u64 {
        self.drawn.global_id
    }

    /// What was kept last by [`Store::keep`]. What a newer netd has kept is refused, as it is among the rows of the model.
    pub fn kept<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let row = self.with_database(|database| {
            let table = match database.begin_read()?.open_table(KEPT) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                table => table?,
            };
            Ok(table.get(SESSION)?.map(|row| row.value().to_owned()))
        });
        let read = || -> Result<Option<T>> {
            row?.map(|row| understood(&SESSION.parse()?, serde_json::from_slice(&row))).transpose()
        };
        read().map_err(|error| match error.downcast::<Unknown>() {
            Ok(what) => StoreError::Unknown { path: self.path.clone(), what }.into(),
            Err(error) => error.context("cannot read the store"),
        })
    }

    /// Keeps something beside the model, on the disk when this returns.
    pub fn keep<T: Serialize>(&mut self, value: &T) -> Result<()> {
        let write = |database: &Database| -> Result<()> {
            let transaction = database.begin_write()?;
            transaction.open_table(KEPT)?.insert(SESSION, serde_json::to_vec(value)?.as_slice())?;
            transaction.commit()?;
            Ok(())
        };
        self.with_database(write).context("cannot write the store")
    }

    /// Turns the rows of `old` into those of `new`, all or none, on the disk when this returns.
    pub fn write(&mut self, old: &Model, new: &Model) -> Result<()> {
        if old == new {
            return Ok(());
        }
        let is_as_written = std::mem::replace(&mut self.is_as_written, false);
        let write = |database: &Database| match is_as_written {
            true => write_transaction(database, old, new),
            false => write_transaction(database, &read_model(database, FORMAT)?, new),
        };
        self.with_database(write).context("cannot write the store")?;
        self.is_as_written = true;
        Ok(())
    }

    /// Does something with the database, which is opened anew if it failed before.
    fn with_database<T>(&mut self, work: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        // Taken out, and put back only if all is well.
        let database = match self.database.take() {
            Some(database) => database,
            None => Database::open(&self.path)?,
        };
        let done = work(&database)?;
        self.database = Some(database);
        Ok(done)
    }
}

fn write_transaction(database: &Database, old: &Model, new: &Model) -> Result<()> {
    let transaction = database.begin_write()?;
    write_table::<_, Network>(&transaction, NETWORKS, &old.networks, &new.networks)?;
    write_table::<_, Endpoint>(&transaction, ENDPOINTS, &old.endpoints, &new.endpoints)?;
    transaction.commit()?;
    Ok(())
}

fn write_table<T: Borrow<R> + PartialEq, R: Serialize>(
    transaction: &WriteTransaction,
    definition: TableDefinition<&str, &[u8]>,
    old: &BTreeMap<Name, T>,
    new: &BTreeMap<Name, T>,
) -> Result<()> {
    let mut table = transaction.open_table(definition)?;
    for name in old.keys().filter(|name| !new.contains_key(name)) {
        table.remove(name.as_str())?;
    }
    for (name, row) in new.iter().filter(|(name, row)| old.get(name) != Some(row)) {
        table.insert(name.as_str(), serde_json::to_vec(row.borrow())?.as_slice())?;
    }
    Ok(())
}

fn made(path: &Path, rng: &mut dyn RngCore) -> Result<(Store, Model), StoreError> {
    let unusable = |error: redb::Error| StoreError::Unusable { path: path.to_owned(), why: error.to_string() };
    // Complete under another name first: a crash in between leaves no half-made store.
    let unfinished = path.with_extension("new");
    let _ = fs::remove_file(&unfinished);
    let drawn = Drawn::new(rng);
    let database = initialised(&unfinished, drawn).map_err(unusable)?;
    fs::rename(&unfinished, path)
        .map_err(|error| StoreError::Unusable { path: path.to_owned(), why: error.to_string() })?;
    Ok((Store::new(database, path, drawn), Model::default()))
}

fn initialised(path: &Path, drawn: Drawn) -> Result<Database, redb::Error> {
    let database = Database::create(path)?;
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert("format", FORMAT)?;
        meta.insert("secret", u64::from(drawn.secret[0]) << 32 | u64::from(drawn.secret[1]))?;
        meta.insert("global_id", drawn.global_id)?;
        transaction.open_table(NETWORKS)?;
        transaction.open_table(ENDPOINTS)?;
    }
    transaction.commit()?;
    Ok(database)
}

fn existing(path: &Path, rng: &mut dyn RngCore) -> Result<(Store, Model), StoreError> {
    let unusable = |why: String| StoreError::Unusable { path: path.to_owned(), why };
    let damaged = |why: String| StoreError::Damaged { path: path.to_owned(), why };
    let file = File::open(path).map_err(|error| unusable(error.to_string()))?;
    match file.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StoreError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => return Err(unusable(error.to_string())),
    }
    let content = fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let Meta { format, secret, global_id: known, model } =
        without_panic(|| checked(content)).map_err(|error| damaged(format!("{error:#}")))?;
    if format > FORMAT {
        return Err(StoreError::Newer { path: path.to_owned(), found: format });
    }
    let model = model.map_err(|error| match error.downcast::<Unknown>() {
        Ok(what) => StoreError::Unknown { path: path.to_owned(), what },
        Err(error) => damaged(format!("{error:#}")),
    })?;
    drop(file);
    let database = Database::open(path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
        other => damaged(other.to_string()),
    })?;
    let drawn = Drawn { secret, global_id: known.unwrap_or_else(|| global_id(rng)) };
    if format < FORMAT {
        upgrade(&database, &model, drawn).map_err(|error| unusable(format!("{error:#}")))?;
    }
    Ok((Store::new(database, path, drawn), model))
}

/// Writes everything as this format has it.
fn upgrade(database: &Database, model: &Model, drawn: Drawn) -> Result<()> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert("format", FORMAT)?;
        meta.insert("global_id", drawn.global_id)?;
    }
    write_table::<_, Network>(&transaction, NETWORKS, &BTreeMap::new(), &model.networks)?;
    write_table::<_, Endpoint>(&transaction, ENDPOINTS, &BTreeMap::new(), &model.endpoints)?;
    transaction.commit()?;
    Ok(())
}

/// What a store says.
struct Meta {
    format: u64,
    secret: [u32; 2],
    /// Unknown before format 2.
    global_id: Option<u64>,
    model: Result<Model>,
}

/// Reads a store in a copy in memory: opening mends what it can, and what is damaged must not be written to.
fn checked(content: Vec<u8>) -> Result<Meta> {
    let copy = InMemoryBackend::new();
    copy.set_len(content.len() as u64)?;
    copy.write(0, &content)?;
    let mut database = Database::builder().create_with_backend(copy)?;
    if !database.check_integrity()? {
        bail!("its checksums do not match");
    }
    meta(&database)
}

fn read_model(database: &Database, format: u64) -> Result<Model> {
    let networks = read_table(database, NETWORKS, |row| upgrade::network(format, row))?;
    let endpoints = read_table(database, ENDPOINTS, |row| upgrade::endpoint(format, row))?;
    let endpoints = endpoints.into_iter().map(|(name, endpoint)| (name, Arc::new(endpoint))).collect();
    Ok(Model { networks, endpoints })
}

/// What `read` returns; an error if it panics, which redb does on pages that make no sense.
fn without_panic<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = panic::catch_unwind(AssertUnwindSafe(read));
    panic::set_hook(hook);
    result.unwrap_or_else(|_| Err(anyhow!("its pages make no sense")))
}

fn meta(database: &Database) -> Result<Meta> {
    let table = database.begin_read()?.open_table(META)?;
    let number = |key: &str| -> Result<u64> {
        Ok(table.get(key)?.with_context(|| format!("it does not say its {key}"))?.value())
    };
    let (format, secret) = (number("format")?, number("secret")?);
    let global_id = table.get("global_id")?.map(|id| id.value());
    let secret = [(secret >> 32) as u32, secret as u32];
    Ok(Meta { format, secret, global_id, model: read_model(database, format) })
}

fn read_table<T: DeserializeOwned>(
    database: &Database,
    definition: TableDefinition<&str, &[u8]>,
    upgraded: impl Fn(serde_json::Value) -> serde_json::Value,
) -> Result<BTreeMap<Name, T>> {
    let table = database.begin_read()?.open_table(definition)?;
    let mut rows = BTreeMap::new();
    for row in table.iter()? {
        let (key, value) = row?;
        let name: Name = key.value().parse()?;
        let row = understood(&name, serde_json::from_slice(value.value()).map(&upgraded))?;
        rows.insert(name, row);
    }
    Ok(rows)
}

/// What a row says, if that is all that it says.
fn understood<T: DeserializeOwned>(name: &Name, row: serde_json::Result<serde_json::Value>) -> Result<T> {
    let mut unknown = None;
    let row = row.and_then(|row| serde_ignored::deserialize(row, |field| unknown = Some(field.to_string())));
    let row = row.with_context(|| format!("the row of {name}"))?;
    match unknown {
        Some(field) => Err(Unknown { row: name.clone(), field }.into()),
        None => Ok(row),
    }
}

#[cfg(test)]
mod tests;
