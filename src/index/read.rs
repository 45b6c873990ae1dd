//! Reads the tables of an index. A row that is damaged is no row; a damaged table is a fault.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, TableError};

use super::error::IndexFault;
use super::{
    CACHE, EXTENTS, FORMAT, GUESTS, GuestRow, INODES, IndexSnapshot, LINKS, META, OBJECTS, READS,
    RUNS, rows,
};
use crate::store::ObjectName;

pub(super) fn check_meta(transaction: &ReadTransaction, mark: &[u8]) -> Result<(), IndexFault> {
    let meta = transaction.open_table(META)?;
    let get = |key| -> Result<Option<Vec<u8>>, IndexFault> {
        let found = meta.get(key)?;
        Ok(found.map(|found| found.value().to_vec()))
    };
    let format = get("format")?.and_then(|format| format.try_into().ok());
    match format.map(u32::from_le_bytes) {
        Some(FORMAT) => {}
        Some(other) => return Err(IndexFault::OtherFormat(other)),
        None => return Err(IndexFault::Damaged),
    }
    if get("store")?.as_deref() == Some(mark) {
        Ok(())
    } else {
        Err(IndexFault::OtherStore)
    }
}

pub(super) fn load(transaction: &ReadTransaction) -> Result<IndexSnapshot, IndexFault> {
    let mut loaded = IndexSnapshot::default();
    let table = transaction.open_table(OBJECTS)?;
    for row in table.iter()? {
        let (key, value) = row?;
        let name = key.value().try_into().ok().and_then(ObjectName::from_bytes);
        let stamp =
            rows::unseal("objects", key.value(), value.value()).and_then(rows::stamp_from_bytes);
        if let (Some(name), Some(stamp)) = (name, stamp) {
            loaded.objects.insert(name, stamp);
        }
    }
    let table = transaction.open_table(CACHE)?;
    for row in table.iter()? {
        let (key, value) = row?;
        let inode = key.value();
        let cached = rows::unseal("scan cache", &inode.to_le_bytes(), value.value())
            .and_then(rows::cached_from_bytes);
        loaded.read.extend(cached.map(|cached| (inode, cached)));
    }
    let table = transaction.open_table(EXTENTS)?;
    for row in table.iter()? {
        let (key, value) = row?;
        let inode = key.value();
        let at = rows::unseal("extents", &inode.to_le_bytes(), value.value())
            .and_then(rows::address_from_bytes);
        loaded.extents.extend(at.map(|at| (inode, at)));
    }
    Ok(loaded)
}

pub(super) fn read_within(
    transaction: &ReadTransaction,
    time: &RangeInclusive<i64>,
) -> Result<Vec<ObjectName>, IndexFault> {
    let mut found = Vec::new();
    let Some(table) = reads(transaction)? else {
        return Ok(found);
    };
    for row in table.iter()? {
        let (key, value) = row?;
        let name = key.value().try_into().ok().and_then(ObjectName::from_bytes);
        let when =
            rows::unseal("reads", key.value(), value.value()).and_then(rows::seconds_from_bytes);
        if when.is_some_and(|when| time.contains(&when)) {
            found.extend(name);
        }
    }
    Ok(found)
}

/// A table by the names of objects.
type ByName = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// The table `reads`, which an index of an earlier version lacks.
fn reads(transaction: &ReadTransaction) -> Result<Option<ByName>, IndexFault> {
    match transaction.open_table(READS) {
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        table => Ok(Some(table?)),
    }
}

pub(super) fn guests(transaction: &ReadTransaction) -> Result<BTreeMap<u32, GuestRow>, IndexFault> {
    let table = transaction.open_table(GUESTS)?;
    let mut guests = BTreeMap::new();
    for row in table.iter()? {
        let (number, value) = row?;
        guests.extend(rows::guest_from_bytes(value.value()).map(|guest| (number.value(), guest)));
    }
    Ok(guests)
}

pub(super) fn last_runs(
    transaction: &ReadTransaction,
    most: usize,
) -> Result<Vec<(u64, String)>, IndexFault> {
    let table = transaction.open_table(RUNS)?;
    let mut runs = Vec::new();
    for row in table.iter()?.rev().take(most) {
        let (number, report) = row?;
        runs.push((number.value(), report.value().to_owned()));
    }
    runs.reverse();
    Ok(runs)
}

pub(super) fn inconsistencies(transaction: &ReadTransaction) -> Result<u64, IndexFault> {
    let mut wrong = 0;
    let inodes = transaction.open_table(INODES)?;
    let (mut by_inode, mut all) = (HashMap::new(), 0_u64);
    for row in inodes.iter()? {
        let (inode, name) = row?;
        let name = name.value().try_into().ok();
        by_inode.insert(inode.value(), name.and_then(ObjectName::from_bytes));
        all += 1;
    }
    let objects = transaction.open_table(OBJECTS)?;
    let mut count = 0_u64;
    for row in objects.iter()? {
        let (key, value) = row?;
        let stamp =
            rows::unseal("objects", key.value(), value.value()).and_then(rows::stamp_from_bytes);
        let Some(stamp) = stamp else {
            wrong += 1;
            continue;
        };
        count += 1;
        let name = key.value().try_into().ok().and_then(ObjectName::from_bytes);
        let found = by_inode.get(&stamp.inode).copied().flatten();
        wrong += u64::from(found.is_none() || found != name);
    }
    wrong += all.saturating_sub(count);
    for (name, table) in [("scan cache", CACHE), ("extents", EXTENTS)] {
        let table = transaction.open_table(table)?;
        for row in table.iter()? {
            let (key, value) = row?;
            let sealed = value.value();
            wrong += u64::from(rows::unseal(name, &key.value().to_le_bytes(), sealed).is_none());
        }
    }
    for (name, table) in [
        ("links", Some(transaction.open_table(LINKS)?)),
        ("reads", reads(transaction)?),
    ] {
        let Some(table) = table else { continue };
        for row in table.iter()? {
            let (key, value) = row?;
            wrong += u64::from(rows::unseal(name, key.value(), value.value()).is_none());
        }
    }
    Ok(wrong)
}
