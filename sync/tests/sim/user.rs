//! What a user does to what the folder shows.

use keymgr::ids::{FileId, NodeId};
use sync::engine::EntryId;
use sync::record::Kind;

use super::device::Device;
use super::disk::{Entry, Inode, ROOT, locator, root_of, seal};
use super::rng::Rng;

/// One act. `n` makes contents and ids of this universe unique.
pub fn act(device: &mut Device, rng: &mut Rng, n: u64, folders: bool) -> Option<String> {
    let dirs = device.kept.disk.walk();
    let (path, dir) = rng.pick(&dirs)?.clone();
    let plain = ["a", "b", "c", "d"][rng.below(4)];
    let who = device.name.clone();
    let here = device.kept.disk.find(dir, plain);
    let files = |d: &Device| -> Vec<(u32, keymgr::ids::StoreName, u32)> {
        let all = dirs.iter().flat_map(|(_, dir)| d.kept.disk.list(*dir).into_iter().map(move |e| (*dir, e)));
        all.filter_map(|(dir, (_, name, e))| if let Entry::File(i, _) = e { Some((dir, name, i)) } else { None })
            .collect()
    };
    let text = format!("{who}{n}");
    // Some universes are mostly about folders that are moved into each other.
    let act = if folders { [0, 4, 4, 4, 7, 12, 13, 14, 15, 16, 17, 18][rng.below(12)] } else { rng.below(26) };
    match act {
        0..=3 if here.is_none() => {
            create(device, rng, dir, plain, &text);
            Some(format!("{who} creates {path}/{plain} {text}"))
        }
        4..=6 if here.is_none() => {
            let node = NodeId::from_bytes(rng.bytes());
            let disk = &mut device.kept.disk;
            let parent = disk.header(dir);
            let name = seal(&parent, plain);
            let sub = disk.fresh();
            let at = locator(&parent, &name, &EntryId::Folder(node));
            disk.dirs.insert(sub, Default::default());
            disk.dirs.get_mut(&sub)?.headers.insert(node, at);
            disk.dirs.get_mut(&dir)?.entries.insert(name, Entry::Dir(sub));
            disk.dirty_dirs.extend([dir, sub]);
            Some(format!("{who} makes {path}/{plain}/ {node:?}"))
        }
        7..=11 => {
            let (_, name, inode) = rng.pick(&files(device))?.clone();
            let old = &device.kept.disk.inodes[&inode];
            if old.kind != Kind::File {
                return None;
            }
            let was = old.text.clone();
            device.kept.unmarked.push(was.clone());
            let disk = &mut device.kept.disk;
            let i = disk.inodes.get_mut(&inode)?;
            i.text = text.clone();
            i.root = root_of(&text, &i.file);
            i.attrs = vec![i.attrs.first().copied().unwrap_or(0), n as u8];
            disk.dirty_files.insert(inode);
            if rng.chance(15) {
                disk.open.insert(inode);
            }
            Some(format!("{who} edits {} {was} -> {text}", name.as_str()))
        }
        12..=13 => {
            let (plain, name, entry) = rng.pick(&device.kept.disk.list(dir))?.clone();
            if matches!(entry, Entry::Dir(_)) && rng.chance(50) {
                return None;
            }
            remove(device, dir, &name);
            Some(format!("{who} removes {path}/{plain}"))
        }
        14..=19 => {
            let (from_path, from) = rng.pick(&dirs)?.clone();
            let mut list = device.kept.disk.list(from);
            if folders && rng.chance(80) {
                list.retain(|(_, _, e)| matches!(e, Entry::Dir(_)));
            }
            let (old_plain, name, entry) = rng.pick(&list)?.clone();
            if from == dir && old_plain == plain {
                return None;
            }
            let moved = if let Entry::Dir(d) = entry { Some(d) } else { None };
            if let Some(d) = moved
                && (d == dir || inside(device, d, dir))
            {
                return None;
            }
            if let Some((over, target)) = here {
                // Over a file only, and not over another name of the same file: that does nothing.
                match (&target, &entry) {
                    (Entry::File(a, _), Entry::File(b, _)) if a != b => remove(device, dir, &over),
                    _ => return None,
                }
            }
            rename(device, from, &name, dir, plain);
            Some(format!("{who} moves {from_path}/{old_plain} -> {path}/{plain}"))
        }
        20 => {
            let all = files(device);
            let a = rng.pick(&all)?.clone();
            let b = rng.pick(&all)?.clone();
            if a.2 == b.2 {
                return None;
            }
            let (pa, pb) = (device.kept.disk.plain(a.0, &a.1)?, device.kept.disk.plain(b.0, &b.1)?);
            let (ea, eb) = (take(device, a.0, &a.1)?, take(device, b.0, &b.1)?);
            put(device, b.0, &pb, ea);
            put(device, a.0, &pa, eb);
            Some(format!("{who} swaps {} and {}", a.1.as_str(), b.1.as_str()))
        }
        21..=22 => {
            // Saving by rename: a new file beside it, which takes its name; sometimes the editor is slow.
            let (dir, name, inode) = rng.pick(&files(device))?.clone();
            if device.kept.disk.inodes[&inode].kind != Kind::File {
                return None;
            }
            let plain = device.kept.disk.plain(dir, &name)?;
            remove(device, dir, &name);
            create(device, rng, dir, &plain, &text);
            Some(format!("{who} saves {} by rename {text}", name.as_str()))
        }
        23 => {
            let (_, _, inode) = rng.pick(&files(device))?.clone();
            if here.is_some() {
                return None;
            }
            put(device, dir, plain, Entry::File(inode, keymgr::ids::Locator::from_bytes([0; 16])));
            Some(format!("{who} links {:?} as {path}/{plain}", device.kept.disk.inodes[&inode].file))
        }
        24..=25 => {
            let (_, name, inode) = rng.pick(&files(device))?.clone();
            let disk = &mut device.kept.disk;
            disk.inodes.get_mut(&inode)?.attrs = vec![n as u8, 1];
            disk.dirty_files.insert(inode);
            Some(format!("{who} chmods {}", name.as_str()))
        }
        _ => None,
    }
}

fn inside(device: &Device, outer: u32, dir: u32) -> bool {
    let mut todo = vec![outer];
    while let Some(at) = todo.pop() {
        if at == dir {
            return true;
        }
        todo.extend(device.kept.disk.dirs[&at].entries.values().filter_map(|e| match e {
            Entry::Dir(d) => Some(*d),
            Entry::File(..) => None,
        }));
    }
    false
}

fn create(device: &mut Device, rng: &mut Rng, dir: u32, plain: &str, text: &str) {
    let file = FileId::from_bytes(rng.bytes());
    let kind = if rng.chance(10) { Kind::Symlink } else { Kind::File };
    let inode = device.kept.disk.fresh();
    let root = root_of(text, &file);
    let disk = &mut device.kept.disk;
    disk.inodes.insert(inode, Inode { file, kind, root, text: text.to_owned(), attrs: vec![1] });
    disk.dirty_files.insert(inode);
    put(device, dir, plain, Entry::File(inode, keymgr::ids::Locator::from_bytes([0; 16])));
}

/// An entry under a new name, sealed for the directory's first header, with its locators.
fn put(device: &mut Device, dir: u32, plain: &str, entry: Entry) {
    let disk = &mut device.kept.disk;
    let parent = disk.header(dir);
    let name = seal(&parent, plain);
    let entry = match entry {
        Entry::File(i, _) => Entry::File(i, locator(&parent, &name, &EntryId::File(disk.inodes[&i].file))),
        Entry::Dir(d) => {
            for (node, at) in disk.dirs.get_mut(&d).into_iter().flat_map(|d| d.headers.iter_mut()) {
                *at = locator(&parent, &name, &EntryId::Folder(*node));
            }
            Entry::Dir(d)
        }
    };
    disk.dirs.get_mut(&dir).unwrap().entries.insert(name, entry);
    disk.dirty_dirs.insert(dir);
}

fn take(device: &mut Device, dir: u32, name: &keymgr::ids::StoreName) -> Option<Entry> {
    device.kept.disk.dirty_dirs.insert(dir);
    device.kept.disk.dirs.get_mut(&dir)?.entries.remove(name)
}

fn rename(device: &mut Device, from: u32, name: &keymgr::ids::StoreName, to: u32, plain: &str) {
    if let Some(entry) = take(device, from, name) {
        put(device, to, plain, entry);
    }
}

fn remove(device: &mut Device, dir: u32, name: &keymgr::ids::StoreName) {
    match device.kept.disk.dirs[&dir].entries.get(name).cloned() {
        Some(Entry::Dir(sub)) => {
            let names: Vec<_> = device.kept.disk.dirs[&sub].entries.keys().cloned().collect();
            for name in names {
                // rm sees only what opens; a directory with more in it stays.
                if device.kept.disk.plain(sub, &name).is_some() {
                    remove(device, sub, &name);
                }
            }
            if sub != ROOT && device.kept.disk.dirs[&sub].entries.is_empty() {
                take(device, dir, name);
                device.kept.disk.dirs.remove(&sub);
                device.kept.disk.dirty_dirs.remove(&sub);
            }
        }
        Some(Entry::File(inode, _)) => {
            take(device, dir, name);
            if device.kept.disk.links(inode).is_empty() {
                let text = device.kept.disk.inodes[&inode].text.clone();
                device.kept.unmarked.push(text);
                device.kept.disk.reap();
            }
        }
        None => {}
    }
}
