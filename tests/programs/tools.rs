//! Tools that people use on file systems, as they use them.

use std::time::Duration;

use crate::harness::{Run, Sh};

const LIMIT: Duration = Duration::from_secs(180);

/// Runs a script with the two mounts as `$1` and `$2` and a directory on another file system as `$3`.
fn on_mounts(script: &str) {
    let Some((_alone, cluster)) = crate::cluster(Duration::from_secs(400)) else { return };
    let elsewhere = cluster.dir().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("make a directory");
    let places = [cluster.mount(0), cluster.mount(1), elsewhere].map(|path| path.display().to_string());
    let places = places.each_ref().map(String::as_str);
    let run: Run = Sh::limited(&format!("set -eux\nexport HOME=\"$3\"\n{script}"), &places, LIMIT);
    assert!(run.worked(), "{run}");
    println!("took {:?}", run.took);
    cluster.finish();
}

#[test]
fn git_makes_clones_and_collects_a_repository() {
    on_mounts(
        r#"
        git config --global user.name Somebody
        git config --global user.email somebody@example.com
        git config --global init.defaultBranch main
        git config --global --add safe.directory '*'
        git init -q "$1/repository"
        cd "$1/repository"
        for commit in 1 2 3; do
            for file in 1 2 3 4 5; do
                mkdir -p "dir-$file"
                echo "$commit $file" >>"dir-$file/file"
                head -c 20000 /dev/urandom >"dir-$file/large"
            done
            git add .
            git commit -q -m "commit $commit"
        done
        git tag first HEAD~2
        git checkout -q -b other first
        git checkout -q main
        test "$(git status --porcelain)" = ""
        # The other mount sees it, and a clone there has all of it.
        test "$(git -C "$2/repository" rev-parse HEAD)" = "$(git rev-parse HEAD)"
        git clone -q --no-local "$2/repository" "$2/clone"
        git -C "$2/clone" fsck --strict
        diff -r --exclude=.git "$1/repository" "$1/clone"
        git gc -q --prune=now
        git fsck --strict --full
        git reset -q --hard first
        test "$(cat dir-3/file)" = "1 3"
        git -C "$2/clone" pull -q --ff-only
        git -C "$2/clone" worktree add -q "$2/tree" HEAD~1
        git -C "$2/clone" stash list
        "#,
    );
}

/// `two_processes_write BASE MODE`: each of two writes eight times with a process of its own, and nothing of it is missing.
const SQLITE: &str = r#"
    two_processes_write() {
        base="$1"
        sqlite3 "$base" "pragma journal_mode=$2; create table counter (n integer); insert into counter values (0);
            create table log (id integer primary key, who text, pad blob);" >/dev/null
        writer() {
            for step in $(seq 8); do
                sqlite3 -bail "$base" ".timeout 60000" "begin immediate; update counter set n = n + 1;
                    insert into log (who, pad) values ('$1', randomblob(3000)); commit;" >/dev/null
            done
        }
        writer one & one=$!
        writer two & two=$!
        wait $one
        wait $two
        test "$(sqlite3 "$base" 'pragma integrity_check')" = ok
        test "$(sqlite3 "$base" 'select n from counter')" = 16
        test "$(sqlite3 "$base" 'select count(*) from log')" = 16
    }
"#;

#[test]
fn sqlite_keeps_its_data_with_both_journals_and_two_processes() {
    let script = r#"
        for mode in delete wal; do
            base="$1/$mode.db"
            two_processes_write "$base" $mode
            # What is rolled back leaves nothing.
            sqlite3 "$base" "begin; delete from log; rollback;"
            test "$(sqlite3 "$base" 'select count(*) from log')" = 16
            sqlite3 "$base" "vacuum"
            test "$(sqlite3 "$base" 'pragma integrity_check')" = ok
        done
        # Rollback journals work from two mounts, too: their locks are those of the cluster.
        # (A write-ahead log needs memory that both share, which mounts on two machines do not.)
        sqlite3 "$2/delete.db" ".timeout 60000" "update counter set n = n + 100"
        test "$(sqlite3 "$1/delete.db" 'select n from counter')" = 116
    "#;
    on_mounts(&[SQLITE, script].concat());
}

#[test]
fn sqlite_keeps_its_data_while_its_log_comes_and_goes_on_a_busy_machine() {
    let script = r#"
        for core in $(seq $(nproc)); do
            (while :; do :; done) & busy="${busy:-} $!"
        done 2>/dev/null
        trap 'kill $busy' EXIT
        set +x
        for round in $(seq 10); do
            two_processes_write "$1/$round.db" wal
        done
    "#;
    on_mounts(&[SQLITE, script].concat());
}

#[test]
fn rsync_updates_files_in_place() {
    on_mounts(
        r#"
        mkdir -p "$3/source/dir/sub"
        head -c 3000000 /dev/urandom >"$3/source/large"
        for file in 1 2 3 4 5 6 7 8; do head -c 5000 /dev/urandom >"$3/source/dir/file-$file"; done
        ln -s large "$3/source/link"
        ln "$3/source/dir/file-1" "$3/source/dir/sub/hard"
        chmod 640 "$3/source/dir/file-2"
        chown 1234:4321 "$3/source/dir/file-3"
        touch -d 2001-02-03T04:05:06.789 "$3/source/dir/file-4"
        rsync -aH --inplace "$3/source/" "$1/target/"
        test "$(rsync -aHin --checksum "$3/source/" "$2/target/")" = ""
        inode=$(stat -c %i "$1/target/large")
        printf changed | dd of="$3/source/large" bs=1 seek=1234567 conv=notrunc status=none
        # rsync looks at size and seconds first, and this all happens within one.
        touch -d 2002-03-04T05:06:07 "$3/source/large"
        rm "$3/source/dir/file-8"
        echo more >>"$3/source/dir/file-5"
        rsync -aH --inplace --no-whole-file --delete "$3/source/" "$1/target/"
        test "$(stat -c %i "$1/target/large")" = "$inode"
        test "$(rsync -aHin --checksum --delete "$3/source/" "$2/target/")" = ""
        cmp "$3/source/large" "$2/target/large"
        rsync -a --sparse --checksum "$1/target/" "$2/again/"
        diff -r "$1/target" "$1/again"
        "#,
    );
}

#[test]
fn tar_packs_and_unpacks_all_kinds_of_files() {
    on_mounts(
        r#"
        mkdir -p "$3/tree/dir/sub"
        for file in $(seq 40); do head -c "$((file * 997))" /dev/urandom >"$3/tree/dir/file-$file"; done
        ln -s ../dir/file-3 "$3/tree/dir/sub/symlink"
        ln "$3/tree/dir/file-7" "$3/tree/dir/sub/hardlink"
        mkfifo "$3/tree/fifo"
        mknod "$3/tree/null" c 1 3
        truncate -s 5M "$3/tree/sparse"
        printf data | dd of="$3/tree/sparse" bs=1 seek=3000000 conv=notrunc status=none
        chown 1234:4321 "$3/tree/dir/file-5"
        chmod 4711 "$3/tree/dir/file-6"
        tar -C "$3" --xattrs --sparse -cf "$1/archive.tar" tree
        mkdir "$1/unpacked"
        tar -C "$1/unpacked" --xattrs --same-owner -xpf "$2/archive.tar"
        tar -C "$2/unpacked" --compare -f "$1/archive.tar"
        test "$(stat -c %a "$2/unpacked/tree/dir/file-6")" = 4711
        test "$(stat -c %h "$2/unpacked/tree/dir/file-7")" = 2
        tar -C "$2/unpacked" -czf "$1/again.tgz" tree
        tar -tzf "$2/again.tgz" | sort >"$3/again"
        tar -tf "$1/archive.tar" | sort | cmp - "$3/again"
        cp -a "$1/unpacked/tree" "$1/copied"
        diff -r --no-dereference "$1/unpacked/tree/dir" "$2/copied/dir"
        "#,
    );
}

#[test]
fn pip_installs_into_an_environment_on_the_mount() {
    on_mounts(
        r#"
        python=/usr/bin/python3
        # A package as an index would give it, so that the test needs no network.
        mkdir -p "$3/wheel/sample" "$3/wheel/sample-1.0.dist-info"
        echo 'def main(): print("it runs")' >"$3/wheel/sample/__init__.py"
        cd "$3/wheel"
        printf 'Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n' >sample-1.0.dist-info/METADATA
        printf 'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n' >sample-1.0.dist-info/WHEEL
        printf '[console_scripts]\nsample = sample:main\n' >sample-1.0.dist-info/entry_points.txt
        printf 'sample/__init__.py,,\nsample-1.0.dist-info/METADATA,,\nsample-1.0.dist-info/WHEEL,,\nsample-1.0.dist-info/entry_points.txt,,\nsample-1.0.dist-info/RECORD,,\n' \
            >sample-1.0.dist-info/RECORD
        "$python" -m zipfile -c "$3/sample-1.0-py3-none-any.whl" sample sample-1.0.dist-info
        # The pip that environments get is run from where it is kept; to unpack it into each takes 500 files.
        "$python" -m venv --without-pip "$1/venv"
        pip=$("$python" -c 'import ensurepip, glob, os
where = getattr(ensurepip, "_WHEEL_PKG_DIR", None) or os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")
print(glob.glob(os.path.join(where, "pip-*.whl"))[0])')
        pip() { PYTHONPATH="$pip" "$environment/bin/python" -m pip --disable-pip-version-check "$@"; }
        environment=$1/venv
        pip install -q --no-index "$3/sample-1.0-py3-none-any.whl"
        test "$("$1/venv/bin/sample")" = "it runs"
        test "$("$2/venv/bin/python" -c 'import sample; print(sample.__file__)' | sed 's,^.*/venv/,,')" != ""
        pip uninstall -q -y sample
        ! test -e "$2/venv/bin/sample"
        "#,
    );
}

#[test]
#[ignore = "installs pip itself, too: make test-posix"]
fn an_environment_with_pip_is_made_on_the_mount() {
    on_mounts(
        r#"
        /usr/bin/python3 -m venv "$1/venv"
        "$1/venv/bin/pip" --disable-pip-version-check list | grep -q ^pip
        "$2/venv/bin/python" -c 'import pip, json, sqlite3'
        "#,
    );
}
