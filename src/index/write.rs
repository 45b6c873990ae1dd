//! Writes what a run learned: of each table, the rows that differ.
//!
//! One table is open at a time. If a damaged page makes redb panic while it opens a table, the panic poisons a lock
//! of the transaction. Closing another table takes the same lock: that would be a second panic while the first one
//! unwinds, which ends the process.

use std::collections::HashSet;

use redb::{ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction};
use vhashify_sys::stamp::Stamp;

use super::error::IndexFault;
use super::rows;
use super::{
    CACHE, EXTENTS, GUESTS, GuestLinks, GuestRow, INODES, LINKS, OBJECTS, READS, RUNS, RUNS_KEPT,
    Update,
};
use crate::store::ObjectName;

/// Writes all of `update` in the transaction of the caller.
///
/// # Errors
/// What redb says.
pub(super) fn write(transaction: &WriteTransaction, update: &Update) -> Result<(), IndexFault> {
    write_objects(transaction, &update.objects)?;
    write_inodes(transaction, &update.objects)?;
    let cache = update.read.iter().map(|(inode, (stamp, identity))| {
        let value = rows::cached_to_bytes(stamp, identity);
        (
            *inode,
            rows::seal("scan cache", &inode.to_le_bytes(), value),
        )
    });
    write_by_inode(transaction, CACHE, cache, |inode| {
        update.read.contains_key(&inode)
    })?;
    let extents = update.extents.iter().map(|(inode, address)| {
        let value = address.to_le_bytes().to_vec();
        (*inode, rows::seal("extents", &inode.to_le_bytes(), value))
    });
    write_by_inode(transaction, EXTENTS, extents, |inode| {
        update.extents.contains_key(&inode)
    })?;
    write_reads(transaction, &update.disk_reads)?;
    forget_reads_of_others(transaction, &update.objects)?;
    write_guests(transaction, &update.guests, &update.objects)?;
    let mut runs = transaction.open_table(RUNS)?;
    if let Some(report) = &update.run {
        let last = runs.last()?.map_or(0, |(number, _)| number.value());
        runs.insert(last + 1, report.as_str())?;
        runs.retain(|number, _| number + RUNS_KEPT > last)?;
    }
    Ok(())
}

fn write_objects(
    transaction: &WriteTransaction,
    objects: &[(ObjectName, Stamp)],
) -> Result<(), IndexFault> {
    let row = |&(name, stamp): &(ObjectName, Stamp)| {
        let key = name.to_bytes().to_vec();
        let value = rows::seal("objects", &key, rows::stamp_to_bytes(&stamp));
        (key, value)
    };
    let mut table = transaction.open_table(OBJECTS)?;
    sync(&mut table, objects.iter(), row, |_, _| false)
}

/// Reads the table once, which is enough where all rows are as wanted: after most runs they are.
fn write_inodes(
    transaction: &WriteTransaction,
    objects: &[(ObjectName, Stamp)],
) -> Result<(), IndexFault> {
    let mut inodes = transaction.open_table(INODES)?;
    let mut wanted: Vec<(u64, ObjectName)> = objects
        .iter()
        .map(|(name, stamp)| (stamp.inode, *name))
        .collect();
    wanted.sort_unstable();
    wanted.dedup_by_key(|(inode, _)| *inode);
    if holds_exactly(&inodes, &wanted)? {
        return Ok(());
    }
    let is_wanted = |inode: u64, name: &[u8]| {
        let found = wanted.binary_search_by_key(&inode, |(inode, _)| *inode);
        found.is_ok_and(|at| wanted[at].1.to_bytes() == name)
    };
    inodes.retain(|inode, name| is_wanted(inode, name))?;
    for (inode, name) in &wanted {
        let is_there = inodes.get(inode)?.is_some();
        if !is_there {
            inodes.insert(inode, name.to_bytes().as_slice())?;
        }
    }
    // A row that exists but was not found by its key exists twice now.
    if holds_exactly(&inodes, &wanted)? {
        Ok(())
    } else {
        Err(IndexFault::Damaged)
    }
}

fn holds_exactly(
    inodes: &Table<'_, u64, &'static [u8]>,
    wanted: &[(u64, ObjectName)],
) -> Result<bool, IndexFault> {
    let mut wanted = wanted.iter();
    for row in inodes.iter()? {
        let (inode, name) = row?;
        let is_next = wanted.next().is_some_and(|(wanted, object)| {
            *wanted == inode.value() && object.to_bytes() == name.value()
        });
        if !is_next {
            return Ok(false);
        }
    }
    Ok(wanted.next().is_none())
}

/// Makes a table hold exactly `rows`, which are sealed and are those of the inodes that `is_kept`.
fn write_by_inode(
    transaction: &WriteTransaction,
    table: TableDefinition<'_, u64, &'static [u8]>,
    rows: impl ExactSizeIterator<Item = (u64, Vec<u8>)>,
    is_kept: impl Fn(u64) -> bool,
) -> Result<(), IndexFault> {
    let mut table = transaction.open_table(table)?;
    table.retain(|inode, _| is_kept(inode))?;
    let count = rows.len() as u64;
    for (inode, sealed) in rows {
        let is_there = table
            .get(inode)?
            .is_some_and(|found| found.value() == sealed);
        if !is_there {
            table.insert(inode, sealed.as_slice())?;
        }
    }
    // See `write_inodes`.
    if table.len()? == count {
        Ok(())
    } else {
        Err(IndexFault::Damaged)
    }
}

/// Adds rows of `reads`. A row that is damaged and not found makes a second one; each is a time at which the object was
/// read.
///
/// # Errors
/// What redb says.
pub(super) fn write_reads(
    transaction: &WriteTransaction,
    reads: &[(ObjectName, i64)],
) -> Result<(), IndexFault> {
    let mut table = transaction.open_table(READS)?;
    for (name, when) in reads {
        let key = name.to_bytes();
        let value = rows::seal("reads", &key, when.to_le_bytes().to_vec());
        table.insert(key.as_slice(), value.as_slice())?;
    }
    Ok(())
}

/// Removes rows of `reads` whose object is gone. It looks for them only where there are more rows than objects: a row
/// too many is not wrong, and most runs need not read the table.
fn forget_reads_of_others(
    transaction: &WriteTransaction,
    objects: &[(ObjectName, Stamp)],
) -> Result<(), IndexFault> {
    let mut table = transaction.open_table(READS)?;
    if table.len()? <= objects.len() as u64 {
        return Ok(());
    }
    let is_there = |key: &[u8]| {
        let name = key.try_into().ok().and_then(ObjectName::from_bytes);
        let found = |name| objects.binary_search_by_key(&name, |(object, _)| *object);
        name.is_some_and(|name| found(name).is_ok())
    };
    table.retain(|key, _| is_there(key))?;
    Ok(())
}

fn write_guests(
    transaction: &WriteTransaction,
    guests: &[(GuestRow, Vec<GuestLinks>)],
    objects: &[(ObjectName, Stamp)],
) -> Result<(), IndexFault> {
    let (mut numbered, mut others) = number_all(transaction, guests)?;
    numbered.sort_unstable_by_key(|(number, _)| *number);
    for (number, _) in &numbered {
        // Where two guests have one number, keys of theirs were damaged.
        if !others.remove(number) {
            return Err(IndexFault::Damaged);
        }
    }
    let wanted = numbered
        .iter()
        .flat_map(|(number, rows)| rows.iter().map(|row| (*number, row)));
    let row = |(number, row): (u32, &GuestLinks)| {
        let (object, _) = &objects[row.object as usize];
        let key = rows::link_key(number, object);
        let value = rows::seal("links", &key, rows::names_to_bytes(row.count, &row.names));
        (key, value)
    };
    // Keeps the links of guests that were not part of this run.
    let is_kept = |key: &[u8], value: &[u8]| {
        let number = key.first_chunk().map(|number| u32::from_be_bytes(*number));
        number.is_some_and(|number| others.contains(&number))
            && rows::unseal("links", key, value).is_some()
    };
    let mut links = transaction.open_table(LINKS)?;
    sync(&mut links, wanted, row, is_kept)
}

/// Guests by their numbers, each with its links.
type Numbered<'a> = Vec<(u32, &'a [GuestLinks])>;

/// The numbers of `guests`, and those of all that the index knows.
fn number_all<'a>(
    transaction: &WriteTransaction,
    guests: &'a [(GuestRow, Vec<GuestLinks>)],
) -> Result<(Numbered<'a>, HashSet<u32>), IndexFault> {
    let mut table = transaction.open_table(GUESTS)?;
    let mut numbered = Vec::with_capacity(guests.len());
    for (guest, rows) in guests {
        numbered.push((number_of(&mut table, guest)?, rows.as_slice()));
    }
    let mut all = HashSet::new();
    for row in table.iter()? {
        all.insert(row?.0.value());
    }
    Ok((numbered, all))
}

/// The number of a guest, which gets one if it has none.
fn number_of(
    numbers: &mut Table<'_, u32, &'static [u8]>,
    guest: &GuestRow,
) -> Result<u32, IndexFault> {
    let value = rows::guest_to_bytes(guest);
    for row in numbers.iter()? {
        let (number, found) = row?;
        if found.value() == value {
            return Ok(number.value());
        }
    }
    let last = numbers.last()?.map(|(number, _)| number.value());
    let next = last.map_or(0, |last| last.wrapping_add(1));
    numbers.insert(next, value.as_slice())?;
    Ok(next)
}

/// Makes a table hold exactly the rows of `wanted`, which are sorted by key, and those that are
/// there and are kept.
///
/// It makes each row when it compares it and does not keep it: there are as many rows as files. A table whose keys
/// are not in order is damaged, because a search for a key behind a changed one misses it. So is a table that does
/// not find a row by its key although the pass has seen it.
fn sync<T: Copy>(
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
    wanted: impl Iterator<Item = T>,
    row: impl Fn(T) -> (Vec<u8>, Vec<u8>),
    is_kept: impl Fn(&[u8], &[u8]) -> bool,
) -> Result<(), IndexFault> {
    let (mut stale, mut missing) = (Vec::new(), Vec::new());
    {
        // One pass over two sorted sequences.
        let mut wanted = wanted.map(|item| (item, row(item))).peekable();
        let mut last: Option<Vec<u8>> = None;
        for present in table.iter()? {
            let (key, value) = present?;
            let (key, value) = (key.value(), value.value());
            if last.as_deref().is_some_and(|last| key <= last) {
                return Err(IndexFault::Damaged);
            }
            let last = last.get_or_insert_default();
            last.clear();
            last.extend_from_slice(key);
            while let Some((item, _)) = wanted.next_if(|(_, (wanted, _))| wanted.as_slice() < key) {
                missing.push((item, false));
            }
            match wanted.next_if(|(_, (wanted, _))| wanted.as_slice() == key) {
                Some((_, (_, wanted))) if wanted == value => {}
                Some((item, _)) => missing.push((item, true)),
                None if is_kept(key, value) => {}
                None => stale.push(key.to_vec()),
            }
        }
        missing.extend(wanted.map(|(item, _)| (item, false)));
    }
    for key in &stale {
        let removed = table.remove(key.as_slice())?;
        removed.ok_or(IndexFault::Damaged)?;
    }
    for (item, is_replaced) in missing {
        let (key, value) = row(item);
        let replaced = table.insert(key.as_slice(), value.as_slice())?;
        if replaced.is_some() != is_replaced {
            return Err(IndexFault::Damaged);
        }
    }
    Ok(())
}
