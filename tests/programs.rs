//! What people do on a file system: real programs on a real mount, and what they made is still right after a remount.

mod common;

use common::{Device, shared};

fn remount(d: &Device) {
    d.umount();
    d.mount_shared();
}

fn end(d: &Device) {
    d.umount();
    d.kith(&["fsck"]);
}

#[test]
fn git_clones_checks_and_packs() {
    let d = shared("git");
    d.script(
        "export GIT_CONFIG_GLOBAL=$PWD/gitconfig GIT_CONFIG_SYSTEM=/dev/null
         git config --global user.name n; git config --global user.email e@example; git config --global gc.autoDetach false
         git init -q origin
         cp -r \"$2\"/{fs,keymgr,man,scripts} origin/
         git -C origin add -A; git -C origin commit -qm one
         cd \"$1\"
         git clone -q --no-local ../origin clone
         cd clone
         for i in 1 2 3 4 5; do echo $i >>README; mkdir -p d$i; cp -r man d$i/; git add -A; git commit -qm c$i; done
         git checkout -q -b side HEAD~3; echo x >side; git add side; git commit -qm side; git merge -q --no-edit -s ours -
         git fsck --full --strict; git gc -q --prune=now; git fsck --full --strict
         git status --porcelain | wc -l | grep -qx 0",
        &[d.mountpoint().as_os_str(), env!("CARGO_MANIFEST_DIR").as_ref()],
    );
    remount(&d);
    d.script(
        "export GIT_CONFIG_GLOBAL=$PWD/gitconfig GIT_CONFIG_SYSTEM=/dev/null; cd \"$1/clone\"
         git fsck --full --strict; test -z \"$(git status --porcelain)\"; git log --oneline | grep -c . | grep -qx 8; rm -rf \"$1/clone\"",
        &[d.mountpoint()],
    );
    end(&d);
}

#[test]
fn cargo_builds_a_crate() {
    let d = shared("cargo");
    let cargo = env!("CARGO");
    d.script(
        "cd \"$1\"; export CARGO_HOME=$2 RUSTC=${3%/*}/rustc
         $3 new -q --vcs none hello; cd hello
         $3 build -q --offline; ./target/debug/hello | grep -q Hello
         $3 build --offline 2>&1 | grep -v Compiling | grep Finished >/dev/null
         sed -i s/Hello/Good-bye/ src/main.rs
         $3 build -q --offline; ./target/debug/hello | grep -q Good-bye",
        &[d.mountpoint().as_os_str(), d.path("cargo").as_os_str(), cargo.as_ref()],
    );
    remount(&d);
    d.script(
        "cd \"$1/hello\"; export CARGO_HOME=$2 RUSTC=${3%/*}/rustc; $3 build --offline 2>&1 | grep Finished >/dev/null; ./target/debug/hello | grep -q Good-bye",
        &[d.mountpoint().as_os_str(), d.path("cargo").as_os_str(), cargo.as_ref()],
    );
    end(&d);
}

#[test]
fn sqlite_keeps_its_promises_with_either_journal() {
    let d = shared("sqlite");
    for journal in ["WAL", "DELETE"] {
        d.script(
            "db=$1/$2.db
             sqlite3 $db \"PRAGMA journal_mode=$2; CREATE TABLE t(who, n, text);\" | grep -qix $2
             work() {
               for i in $(seq 20); do
                 echo \"BEGIN IMMEDIATE; INSERT INTO t SELECT $1, value, hex(randomblob(200)) FROM generate_series(1, 50); COMMIT;\"
                 [ $((i % 5)) != 0 ] || echo \"UPDATE t SET text = hex(randomblob(300)) WHERE who = $1 AND n % 7 = 0;\"
               done | sqlite3 -bail -cmd '.timeout 20000' $db
             }
             work 1 & one=$!; work 2 & two=$!; work 3 & three=$!
             wait $one; wait $two; wait $three
             [ \"$(sqlite3 $db 'SELECT count(*) FROM t; PRAGMA integrity_check;' | tr '\\n' ' ')\" = '3000 ok ' ]",
            &[d.mountpoint().as_os_str(), journal.as_ref()],
        );
    }
    remount(&d);
    for journal in ["WAL", "DELETE"] {
        d.script(
            "[ \"$(sqlite3 $1/$2.db 'SELECT count(*) FROM t; PRAGMA integrity_check; VACUUM; PRAGMA integrity_check;' | tr '\\n' ' ')\" = '3000 ok ok ' ]",
            &[d.mountpoint().as_os_str(), journal.as_ref()],
        );
    }
    end(&d);
}

#[test]
fn postgres_keeps_its_accounts() {
    let d = shared("pg");
    let common = "as() { setpriv --reuid=nobody --regid=nogroup --clear-groups env PATH=\"$PATH\" HOME=/ \"$@\"; }
        PATH=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1):$PATH
        db=$1/db; run=$2
        start() { as pg_ctl -s -w -D $db -l $run/log -o \"-k $run -c listen_addresses= -c shared_buffers=8MB\" start; }
        stop() { as pg_ctl -s -w -D $db -m fast stop; }
        sql() { as psql -h $run -U nobody -XAtq -v ON_ERROR_STOP=1 \"$@\" postgres; }
        sums() { sql -c 'SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)'; }
        ";
    let args = [d.mountpoint(), d.path("run")];
    d.script(
        &format!(
            "{common}
            chown nobody:nogroup $run; install -d -o nobody -g nogroup -m 700 $db
            as initdb -k -D $db -U nobody -A trust >/dev/null
            start; trap stop EXIT
            as pgbench -h $run -U nobody -i -s 1 -q postgres
            as pgbench -h $run -U nobody -n -c 2 -t 60 postgres
            sql -c 'SELECT count(*) FROM pgbench_history' | grep -qx 120
            sums | grep -qx t"
        ),
        &args,
    );
    remount(&d);
    d.script(
        &format!(
            "{common}
            as pg_checksums --check -D $db >/dev/null
            start; trap stop EXIT
            sql -c 'SELECT count(*) FROM pgbench_history' | grep -qx 120
            sums | grep -qx t"
        ),
        &args,
    );
    end(&d);
}

/// A tree with everything that rsync can carry; tar leaves out sockets.
const SAMPLE: &str = "mkdir -p $1/a/b/c; cd $1
    echo hello >a/hello; ln a/hello a/b/link; ln -s ../hello a/b/symlink; mkfifo a/fifo; mknod a/null c 1 3; mknod a/sda b 8 0
    python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"a/socket\")'
    truncate -s 3M a/sparse; echo middle | dd of=a/sparse bs=1 seek=1000000 conv=notrunc status=none
    seq 100000 >a/b/big
    chmod 4755 a/b/big; chown nobody:nogroup a/b/big; chmod 1777 a/b/c; chmod 2750 a/b; chmod 0 a/sparse
    setfattr -n user.note -v something a/hello; setfattr -n user.empty a/b; setfattr -n trusted.t -v t a/b/c
    setfacl -m u:nobody:rw,g:daemon:r a/hello; setfacl -m u:daemon:rwx,d:u:nobody:rx,d:g::- a/b/c; setfacl -m u:nobody:r a/fifo
    touch a/b/c/inherits; mkdir a/b/c/folder
    find . -exec touch -h -d '2001-02-03 04:05:06.789012345' {} +; touch -h -d '1969-12-31 12:00' a/b/symlink\n";
/// All of a tree but the times of change and access, as text.
const SHOW: &str = "show() { (cd $1; find . | LC_ALL=C sort >$OLDPWD/names; exec <$OLDPWD/names; mapfile -t names
    stat -c '%n %F %a %u %g %h %s %t %T %.9Y' -- \"${names[@]}\" | sed -E 's/^(.* directory .*) [0-9]+ [0-9]+ 0 0 /\\1 /'
    getfattr -hdm- -- \"${names[@]}\"; getfacl -pn -- \"${names[@]}\"; find . -type f -exec sha256sum {} + | sort) }\n";

#[test]
fn tar_and_rsync_carry_everything_in_and_out() {
    let d = shared("carry");
    d.script(
        &format!(
            "{SHOW}
            make() {{ {SAMPLE} }}
            umask 022; (make $PWD/plain); show plain >want
            rsync -aHAX --specials --devices plain/ $1/rsync/; show $1/rsync >have; diff want have
            tar -C plain --xattrs --xattrs-include='*' --acls -cf in.tar . 2>/dev/null; mkdir $1/tar
            tar -C $1/tar --xattrs --xattrs-include='*' --acls -xpf in.tar
            rsync -aHAX --specials plain/ $1/tar/; show $1/tar >have; diff want have
            cp -a plain $1/cp; show $1/cp >have; diff want have
            (make $1/made); show $1/made >have; diff want have"
        ),
        &[d.mountpoint()],
    );
    remount(&d);
    d.script(
        &format!(
            "{SHOW}
            for copy in rsync tar cp; do show $1/$copy >have; diff want have; done
            tar -C $1/rsync --xattrs --xattrs-include='*' --acls -cf out.tar . 2>/dev/null; mkdir out
            tar -C out --xattrs --xattrs-include='*' --acls -xpf out.tar; rsync -aHAX --specials $1/cp/ out/; show out >have; diff want have
            rsync -aHAX $1/tar/ back/; show back >have; diff want have
            rm -rf $1/*; ls -A $1 | wc -l | grep -qx 0"
        ),
        &[d.mountpoint()],
    );
    end(&d);
}

#[test]
fn access_lists_decide_who_may_and_are_handed_down() {
    let d = shared("acl");
    d.script(
        "as() { setpriv --reuid=$1 --regid=$1 --clear-groups \"${@:2}\"; }
         no() { if as \"$@\" 2>/dev/null; then echo \"may: $*\"; exit 1; fi; }
         cd $1; umask 022
         echo secret >f; chmod 600 f
         no 1001 cat f
         setfacl -m u:1001:r,g:1002:rw f; as 1001 cat f; as 1002 sh -c 'echo more >>f'
         no 1001 sh -c 'echo x >>f'; no 1003 cat f
         stat -c %a f | grep -qx 660
         chmod 640 f; getfacl -cp f | grep -q 'mask::r--'; no 1002 sh -c 'echo x >>f'; as 1002 cat f
         setfacl -b f; stat -c %a f | grep -qx 600; [ -z \"$(getfattr -hm- f)\" ]; no 1001 cat f
         mkdir in; setfacl -m d:u:1001:rwx,d:o::-,u:1001:rwx in
         touch in/new; getfacl -cp in/new | grep -q 'user:1001:rwx'; stat -c %a in/new | grep -qx 660
         mkdir in/sub; getfacl -cp in/sub | grep -q 'default:user:1001:rwx'
         as 1001 sh -c 'mkdir in/theirs; echo x >in/theirs/f; echo y >>in/new'; stat -c %u in/theirs | grep -qx 1001
         (umask 0; touch plain; mkdir plaind); stat -c %a plain plaind | tr '\\n' ' ' | grep -qx '666 777 '
         (umask 077; touch masked); stat -c %a masked | grep -qx 600",
        &[d.mountpoint()],
    );
    remount(&d);
    d.script(
        "as() { setpriv --reuid=$1 --regid=$1 --clear-groups \"${@:2}\"; }
         no() { if as \"$@\" 2>/dev/null; then echo \"may: $*\"; exit 1; fi; }
         cd $1; as 1001 cat in/new | grep -qx y; no 1002 cat in/new; as 1001 touch in/sub/again
         getfacl -cp in/sub/again | grep -q 'user:1001:rwx'",
        &[d.mountpoint()],
    );
    end(&d);
}

#[test]
fn two_vaults_lie_side_by_side() {
    let (a, b) = (shared("one"), shared("two"));
    a.script(
        "cp -r \"$3\"/fs $1/fs; cp -r $1/fs $2/fs; diff -r $1/fs $2/fs
         mv $1/fs $2/moved; diff -r $2/fs $2/moved; [ ! -e $1/fs ]
         touch $1/x
         python3 -c 'import errno, os, sys
try: sys.exit(os.rename(sys.argv[1] + \"/x\", sys.argv[2] + \"/x\") or 1)
except OSError as e: sys.exit(e.errno != errno.EXDEV)' $1 $2",
        &[a.mountpoint().as_os_str(), b.mountpoint().as_os_str(), env!("CARGO_MANIFEST_DIR").as_ref()],
    );
    remount(&b);
    a.script("diff -r $2/fs $2/moved; [ -e $1/x ]", &[a.mountpoint(), b.mountpoint()]);
    end(&a);
    end(&b);
}
