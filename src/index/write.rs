//! Writes what a run learned: of each table, the rows that differ.

use std::ops::Bound;

use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};

use super::rows;
use super::{
    CACHE, EXTENTS, Fault, GUESTS, GuestLinks, GuestRow, INODES, LINKS, OBJECTS, RUNS, RUNS_KEPT,
    Update,
};
use crate::store::ObjectName;
use crate::sys::stamp::Stamp;

/// Writes all of `update` in the transaction of the caller.
///
/// # Errors
/// What redb says.
pub(super) fn write(transaction: &WriteTransaction, update: &Update) -> Result<(), Fault> {
    write_objects(transaction, &update.objects)?;
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
    write_guests(transaction, &update.guests, &update.objects)?;
    let mut runs = transaction.open_table(RUNS).map_err(redb::Error::from)?;
    if let Some(report) = &update.run {
        let last = runs
            .last()
            .map_err(redb::Error::from)?
            .map_or(0, |(number, _)| number.value());
        runs.insert(last + 1, report.as_str())
            .map_err(redb::Error::from)?;
        runs.retain(|number, _| number + RUNS_KEPT > last)
            .map_err(redb::Error::from)?;
    }
    Ok(())
}

fn write_objects(
    transaction: &WriteTransaction,
    objects: &[(ObjectName, Stamp)],
) -> Result<(), Fault> {
    let mut table = transaction.open_table(OBJECTS).map_err(redb::Error::from)?;
    let row = |position: usize| {
        let (name, stamp) = &objects[position];
        let key = name.to_bytes().to_vec();
        let value = rows::seal("objects", &key, rows::stamp_to_bytes(stamp));
        (key, value)
    };
    // Longer than any key, and so beyond all of them.
    let end = [u8::MAX; ObjectName::LENGTH + 1];
    sync(&mut table, &[], &end, objects.len(), row)?;
    write_inodes(transaction, objects)
}

/// One pass where all rows are there, as they are after most runs.
fn write_inodes(
    transaction: &WriteTransaction,
    objects: &[(ObjectName, Stamp)],
) -> Result<(), Fault> {
    let mut inodes = transaction.open_table(INODES).map_err(redb::Error::from)?;
    let mut wanted: Vec<(u64, ObjectName)> = objects
        .iter()
        .map(|(name, stamp)| (stamp.inode, *name))
        .collect();
    wanted.sort_unstable();
    if holds_exactly(&inodes, &wanted)? {
        return Ok(());
    }
    let is_wanted = |inode: u64, name: &[u8]| {
        let found = wanted.binary_search_by_key(&inode, |(inode, _)| *inode);
        found.is_ok_and(|at| wanted[at].1.to_bytes() == name)
    };
    inodes
        .retain(|inode, name| is_wanted(inode, name))
        .map_err(redb::Error::from)?;
    for (inode, name) in &wanted {
        let is_there = inodes.get(inode).map_err(redb::Error::from)?.is_some();
        if !is_there {
            inodes
                .insert(inode, name.to_bytes().as_slice())
                .map_err(redb::Error::from)?;
        }
    }
    Ok(())
}

fn holds_exactly(
    inodes: &Table<'_, u64, &'static [u8]>,
    wanted: &[(u64, ObjectName)],
) -> Result<bool, Fault> {
    let mut wanted = wanted.iter();
    for row in inodes.iter().map_err(redb::Error::from)? {
        let (inode, name) = row.map_err(redb::Error::from)?;
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
    rows: impl Iterator<Item = (u64, Vec<u8>)>,
    is_kept: impl Fn(u64) -> bool,
) -> Result<(), Fault> {
    let mut table = transaction.open_table(table).map_err(redb::Error::from)?;
    table
        .retain(|inode, _| is_kept(inode))
        .map_err(redb::Error::from)?;
    for (inode, sealed) in rows {
        let is_there = table
            .get(inode)
            .map_err(redb::Error::from)?
            .is_some_and(|found| found.value() == sealed);
        if !is_there {
            table
                .insert(inode, sealed.as_slice())
                .map_err(redb::Error::from)?;
        }
    }
    Ok(())
}

fn write_guests(
    transaction: &WriteTransaction,
    guests: &[(GuestRow, Vec<GuestLinks>)],
    objects: &[(ObjectName, Stamp)],
) -> Result<(), Fault> {
    let mut numbers = transaction.open_table(GUESTS).map_err(redb::Error::from)?;
    let mut links = transaction.open_table(LINKS).map_err(redb::Error::from)?;
    for (guest, rows_of_guest) in guests {
        let value = rows::guest_to_bytes(guest);
        let mut known = None;
        for row in numbers.iter().map_err(redb::Error::from)? {
            let (number, found) = row.map_err(redb::Error::from)?;
            if found.value() == value {
                known = Some(number.value());
                break;
            }
        }
        let number = if let Some(number) = known {
            number
        } else {
            let last = numbers
                .last()
                .map_err(redb::Error::from)?
                .map(|(number, _)| number.value());
            let next = last.map_or(0, |last| last.wrapping_add(1));
            numbers
                .insert(next, value.as_slice())
                .map_err(redb::Error::from)?;
            next
        };
        let row = |position: usize| {
            let row: &GuestLinks = &rows_of_guest[position];
            let (object, _) = &objects[row.object as usize];
            let key = rows::link_key(number, object);
            let value = rows::seal("links", &key, rows::names_to_bytes(row.count, &row.names));
            (key, value)
        };
        let (from, to) = (number.to_be_bytes(), number.wrapping_add(1).to_be_bytes());
        sync(&mut links, &from, &to, rows_of_guest.len(), row)?;
    }
    remove_strangers(&numbers, &mut links)
}

/// Removes links of numbers that no guest has: rows whose key was damaged, which no guest's own rows
/// would ever replace.
fn remove_strangers(
    numbers: &Table<'_, u32, &'static [u8]>,
    links: &mut Table<'_, &'static [u8], &'static [u8]>,
) -> Result<(), Fault> {
    // From one guest to the next there is nothing, so that this is a look at each gap.
    let mut strangers = Vec::new();
    let mut from: Vec<u8> = Vec::new();
    for row in numbers.iter().map_err(redb::Error::from)? {
        let (number, _) = row.map_err(redb::Error::from)?;
        let number = number.value();
        keys(links, &from, Some(&number.to_be_bytes()), &mut strangers)?;
        let Some(next) = number.checked_add(1) else {
            from = vec![u8::MAX; 4 + ObjectName::LENGTH + 1];
            break;
        };
        from = next.to_be_bytes().to_vec();
    }
    keys(links, &from, None, &mut strangers)?;
    for key in strangers {
        links.remove(key.as_slice()).map_err(redb::Error::from)?;
    }
    Ok(())
}

/// The keys from `from` on, and before `to` if there is one.
fn keys(
    table: &Table<'_, &'static [u8], &'static [u8]>,
    from: &[u8],
    to: Option<&[u8]>,
    found: &mut Vec<Vec<u8>>,
) -> Result<(), Fault> {
    let to = to.map_or(Bound::Unbounded, Bound::Excluded);
    let range = table.range::<&[u8]>((Bound::Included(from), to));
    for row in range.map_err(redb::Error::from)? {
        let (key, _) = row.map_err(redb::Error::from)?;
        found.push(key.value().to_vec());
    }
    Ok(())
}

/// Makes the keys from `from` up to `to` hold exactly the rows number 0 to `count` - 1, which are
/// sorted by key.
///
/// Rows are made when they are looked at and not kept: there are as many as there are files.
fn sync(
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
    from: &[u8],
    to: &[u8],
    count: usize,
    row: impl Fn(usize) -> (Vec<u8>, Vec<u8>),
) -> Result<(), Fault> {
    let (mut stale, mut missing) = (Vec::new(), Vec::new());
    {
        // One pass over two sorted sequences.
        let mut wanted = (0..count)
            .map(|position| (position, row(position)))
            .peekable();
        for present in table.range(from..to).map_err(redb::Error::from)? {
            let (key, value) = present.map_err(redb::Error::from)?;
            let (key, value) = (key.value(), value.value());
            while let Some((position, _)) =
                wanted.next_if(|(_, (wanted, _))| wanted.as_slice() < key)
            {
                missing.push(position);
            }
            match wanted.next_if(|(_, (wanted, _))| wanted.as_slice() == key) {
                Some((_, (_, wanted))) if wanted == value => {}
                Some((position, _)) => missing.push(position),
                None => stale.push(key.to_vec()),
            }
        }
        missing.extend(wanted.map(|(position, _)| position));
    }
    for key in &stale {
        table.remove(key.as_slice()).map_err(redb::Error::from)?;
    }
    for &position in &missing {
        let (key, value) = row(position);
        table
            .insert(key.as_slice(), value.as_slice())
            .map_err(redb::Error::from)?;
    }
    Ok(())
}
