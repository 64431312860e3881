//! FUSE requests to operations on a volume, and back. How each is answered was measured, see ARCHITECTURE.md.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::Forest;
use super::counts::Counts;
use crate::content::{Kind, Scratch};
use crate::store::{Nanos, Rename};
use crate::volume::{Attr, Device, DirEntry, Error, OpenHow, Result, SetAttr, Shown, Who};

/// Everything changes through this mount, and what sync changes is told to the kernel: it may keep what it knows.
const TTL: Duration = Duration::from_secs(3600);
const GENERATION: Generation = Generation(0);
/// A file handle says only whether it was opened for writing.
const READ: FileHandle = FileHandle(0);
const WRITE: FileHandle = FileHandle(1);

pub(super) struct Served {
    /// All volumes as one.
    volume: Forest,
    /// Others than its owner may enter.
    shared: bool,
    counts: Counts,
}

impl Served {
    pub fn new(volume: Forest, shared: bool, counts: Counts) -> Self {
        Self { volume, shared, counts }
    }
}

fn errno(e: &Error) -> Errno {
    if !matches!(e, Error::Errno(_)) {
        tracing::debug!("{e}");
    }
    Errno::from_i32(e.errno())
}

fn who(req: &Request, umask: u32) -> Who {
    Who { uid: req.uid(), gid: req.gid(), umask: umask & 0o777 }
}

fn time(nanos: Nanos) -> SystemTime {
    let size = |n: u128| Duration::new((n / 1_000_000_000) as u64, (n % 1_000_000_000) as u32);
    let moved = if nanos >= 0 {
        UNIX_EPOCH.checked_add(size(nanos.unsigned_abs()))
    } else {
        UNIX_EPOCH.checked_sub(size(nanos.unsigned_abs()))
    };
    moved.unwrap_or(UNIX_EPOCH)
}

fn nanos(time: TimeOrNow) -> Nanos {
    let time = match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    };
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as Nanos,
        Err(before) => -(before.duration().as_nanos() as Nanos),
    }
}

fn kind(shown: Shown) -> FileType {
    match shown {
        Shown::Folder | Shown::Share(_) => FileType::Directory,
        Shown::File => FileType::RegularFile,
        Shown::Symlink => FileType::Symlink,
        Shown::Fifo => FileType::NamedPipe,
        Shown::Socket => FileType::Socket,
        Shown::Block => FileType::BlockDevice,
        Shown::Char => FileType::CharDevice,
    }
}

/// As the kernel's protocol packs it: 12 bits of major number among 20 of minor.
fn device(dev: u32) -> Device {
    Device { major: dev >> 8 & 0xfff, minor: dev & 0xff | dev >> 12 & 0xfff00 }
}

fn rdev(Device { major, minor }: Device) -> u32 {
    minor & 0xff | (major & 0xfff) << 8 | (minor & 0xfff00) << 12
}

fn attr(of: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(of.ino),
        size: of.size,
        blocks: of.blocks,
        atime: time(of.atime),
        mtime: time(of.mtime),
        ctime: time(of.ctime),
        crtime: UNIX_EPOCH,
        kind: kind(of.kind),
        perm: (of.mode & 0o7777) as u16,
        nlink: of.links,
        uid: of.uid,
        gid: of.gid,
        rdev: rdev(of.device),
        blksize: 4096,
        flags: 0,
    }
}

fn entry(reply: ReplyEntry, result: Result<Attr>) {
    match result {
        Ok(of) => reply.entry(&TTL, &attr(&of), GENERATION),
        Err(e) => reply.error(errno(&e)),
    }
}

fn empty(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno(&e)),
    }
}

fn sized(reply: ReplyXattr, size: u32, result: Result<Vec<u8>>) {
    match result {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(e) => reply.error(errno(&e)),
    }
}

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // It decides who keeps the times of files; every kernel of the last ten years has it.
        config
            .add_capabilities(InitFlags::FUSE_WRITEBACK_CACHE)
            .map_err(|_| io::Error::new(io::ErrorKind::Unsupported, "the kernel's FUSE caches no writes"))?;
        for flag in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            // A folder that hands down an access list does so in place of the umask.
            InitFlags::FUSE_DONT_MASK,
        ] {
            // What a kernel lacks costs speed only.
            let _ = config.add_capabilities(flag);
        }
        if self.shared {
            // Access lists count where others may enter. (It also has the kernel check permissions.)
            let _ = config.add_capabilities(InitFlags::FUSE_POSIX_ACL);
        }
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.counts.one("lookup");
        match self.volume.lookup(parent.0, name.as_bytes()) {
            // No entry, and the kernel may remember that.
            Err(Error::Errno(libc::ENOENT)) => {
                let none = Attr { ino: 0, ..ZERO };
                reply.entry(&TTL, &attr(&none), GENERATION);
            }
            other => entry(reply, other),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.counts.one("forget");
        self.volume.forget(ino.0, count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.counts.one("getattr");
        match self.volume.getattr(ino.0) {
            Ok(of) => reply.attr(&TTL, &attr(&of)),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.counts.one("setattr");
        let mode = mode.map(|m| m & 0o7777);
        let set = SetAttr { mode, uid, gid, size, atime: atime.map(nanos), mtime: mtime.map(nanos) };
        match self.volume.setattr(ino.0, set) {
            Ok(of) => reply.attr(&TTL, &attr(&of)),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        self.counts.one("readlink");
        match self.volume.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, dev: u32, reply: ReplyEntry) {
        self.counts.one("mknod");
        let kind = match mode & libc::S_IFMT {
            libc::S_IFREG | 0 => Kind::File,
            libc::S_IFIFO => Kind::Fifo,
            libc::S_IFSOCK => Kind::Socket,
            // The kernel lets only root come so far.
            libc::S_IFBLK => Kind::Block,
            libc::S_IFCHR => Kind::Char,
            _ => return reply.error(Errno::EPERM),
        };
        entry(reply, self.volume.mknod(parent.0, name.as_bytes(), kind, mode & 0o7777, device(dev), who(req, umask)));
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.counts.one("mkdir");
        entry(reply, self.volume.mkdir(parent.0, name.as_bytes(), mode & 0o7777, who(req, umask)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.counts.one("unlink");
        empty(reply, self.volume.unlink(parent.0, name.as_bytes()));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.counts.one("rmdir");
        empty(reply, self.volume.rmdir(parent.0, name.as_bytes()));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.counts.one("symlink");
        entry(reply, self.volume.symlink(parent.0, name.as_bytes(), target.as_os_str().as_bytes(), who(req, 0)));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.counts.one("rename");
        let how = if flags == RenameFlags::RENAME_EXCHANGE {
            Rename::Exchange
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            Rename::NoReplace
        } else if flags.is_empty() {
            Rename::Over
        } else {
            return reply.error(Errno::EINVAL);
        };
        empty(reply, self.volume.rename(parent.0, name.as_bytes(), to.0, new.as_bytes(), how));
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.counts.one("link");
        entry(reply, self.volume.link(ino.0, parent.0, name.as_bytes()));
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.counts.one("open");
        let access = flags.0 & libc::O_ACCMODE;
        let write = access != libc::O_RDONLY;
        let wanted = if access == libc::O_RDWR {
            0o600
        } else if write {
            0o200
        } else {
            0o400
        };
        // In a private mount the kernel leaves this to us. Its owner is the only one who comes here, and root.
        if req.uid() != 0
            && let Ok(of) = self.volume.getattr(ino.0)
            && of.uid == req.uid()
            && of.mode & wanted != wanted
            && !(wanted == 0o400 && of.mode & 0o100 != 0)
        {
            return reply.error(Errno::EACCES);
        }
        match self.volume.open_file(ino.0, OpenHow { write, truncate: flags.0 & libc::O_TRUNC != 0 }) {
            Ok(()) => reply.opened(if write { WRITE } else { READ }, FopenFlags::FOPEN_KEEP_CACHE),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.counts.one("read");
        let mut out = Scratch::new(size as usize);
        match self.volume.read(ino.0, &mut out, offset) {
            Ok(len) => reply.data(out.get(..len).unwrap_or_default()),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.counts.one("write");
        let unprivileged = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        match self.volume.write(ino.0, data, offset, unprivileged) {
            Ok(()) => reply.written(data.len() as u32),
            Err(e) => reply.error(errno(&e)),
        }
    }

    /// The kernel has written back what it held by then. Not being asked again saves a round trip for each close.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.counts.one("flush");
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.counts.one("release");
        empty(reply, self.volume.release(ino.0, handle == WRITE));
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.counts.one("fsync");
        empty(reply, self.volume.fsync(ino.0, data_only));
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.counts.one("opendir");
        match self.volume.opendir(ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn readdir(&self, _: &Request, ino: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.counts.one("readdir");
        let add = |next, e: &DirEntry| reply.add(INodeNo(e.ino), next, kind(e.kind), OsStr::from_bytes(&e.name));
        match self.volume.readdir(ino.0, handle.0, offset, add) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn readdirplus(&self, _: &Request, ino: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        self.counts.one("readdirplus");
        let add = |next, name: &[u8], of: &Attr| {
            reply.add(INodeNo(of.ino), next, OsStr::from_bytes(name), &TTL, &attr(of), GENERATION)
        };
        match self.volume.readdirplus(ino.0, handle.0, offset, add) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn releasedir(&self, _: &Request, ino: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.counts.one("releasedir");
        self.volume.releasedir(ino.0, handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.counts.one("fsyncdir");
        empty(reply, self.volume.fsyncdir(ino.0));
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.counts.one("statfs");
        match self.volume.statfs(ino.0) {
            Ok(s) => {
                let block = s.block as u32;
                reply.statfs(s.blocks, s.free, s.available, s.files, s.files_free, block, 255, block);
            }
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn setxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, _: u32, reply: ReplyEmpty) {
        self.counts.one("setxattr");
        empty(reply, self.volume.setxattr(ino.0, name.as_bytes(), value, flags));
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.counts.one("getxattr");
        sized(reply, size, self.volume.getxattr(ino.0, name.as_bytes()));
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.counts.one("listxattr");
        let names = self.volume.listxattr(ino.0);
        let joined = names.map(|names| names.into_iter().flat_map(|name| [name, vec![0]].concat()).collect());
        sized(reply, size, joined);
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.counts.one("removexattr");
        empty(reply, self.volume.removexattr(ino.0, name.as_bytes()));
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.counts.one("create");
        let name = name.as_bytes();
        let made = match self.volume.create(parent.0, name, mode & 0o7777, who(req, umask)) {
            // Somebody was faster, and that is what was asked for.
            Err(Error::Errno(libc::EEXIST)) if flags & libc::O_EXCL == 0 => {
                self.volume.lookup(parent.0, name).and_then(|of| {
                    let how = OpenHow { write: true, truncate: flags & libc::O_TRUNC != 0 };
                    self.volume.open_file(of.ino, how).map(|()| of)
                })
            }
            other => other,
        };
        match made {
            Ok(of) => reply.created(&TTL, &attr(&of), GENERATION, WRITE, FopenFlags::FOPEN_KEEP_CACHE),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn fallocate(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, len: u64, mode: i32, reply: ReplyEmpty) {
        self.counts.one("fallocate");
        empty(reply, self.volume.fallocate(ino.0, offset, len, mode));
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.counts.one("lseek");
        let (Ok(offset), libc::SEEK_DATA | libc::SEEK_HOLE) = (u64::try_from(offset), whence) else {
            return reply.error(Errno::EINVAL);
        };
        match self.volume.seek(ino.0, offset, whence == libc::SEEK_DATA) {
            Ok(at) => reply.offset(i64::try_from(at).unwrap_or(i64::MAX)),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn copy_file_range(
        &self,
        _: &Request,
        from: INodeNo,
        _: FileHandle,
        at: u64,
        to: INodeNo,
        _: FileHandle,
        target: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.counts.one("copy_file_range");
        // In pieces, so that the loop serves others meanwhile.
        match self.volume.copy_range(from.0, at, to.0, target, len.min(16 << 20)) {
            Ok(done) => reply.written(done as u32),
            Err(e) => reply.error(errno(&e)),
        }
    }
}

const ZERO: Attr = Attr {
    ino: 0,
    kind: Shown::File,
    size: 0,
    blocks: 0,
    mode: 0,
    links: 0,
    uid: 0,
    gid: 0,
    atime: 0,
    mtime: 0,
    ctime: 0,
    device: Device { major: 0, minor: 0 },
};
