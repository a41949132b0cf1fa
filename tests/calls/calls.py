"""What system calls do on a mount, as their manual pages say. Run as root:

    python3 calls.py MOUNT OTHER-MOUNT [unittest arguments]

Both are mounts of the same cluster. Each test has a directory of its own. A test says what the call promises; what only this file
system does is said in docs/SEMANTICS.md.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
import unittest

HERE, THERE = None, None
PATIENCE = 60

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE = 1, 2, 8, 16, 32
SEEK_DATA, SEEK_HOLE = 3, 4
MIB = 1 << 20


def call(name, *arguments):
    """A function of libc that returns -1 and sets errno."""
    arguments = [ctypes.c_long(a) if isinstance(a, int) else os.fsencode(a) if isinstance(a, str) else a for a in arguments]
    function = getattr(libc, name)
    function.restype = ctypes.c_ssize_t if name in ("getxattr", "listxattr") else ctypes.c_int
    result = function(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def renameat2(old, new, flags):
    return call("renameat2", AT_FDCWD, old, AT_FDCWD, new, flags)


def link_open(fd, path):
    """Gives an open file a name."""
    return call("linkat", AT_FDCWD, f"/proc/self/fd/{fd}", AT_FDCWD, path, AT_SYMLINK_FOLLOW)


def fallocate(fd, mode, offset, length):
    return call("fallocate", fd, mode, offset, length)


def as_user(uid, function, gid=None, groups=()):
    """Runs a function in a child with another user; what it raises or returns (if it is small) comes back."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 0
        try:
            os.setgroups(list(groups))
            os.setresgid(gid or uid, gid or uid, gid or uid)
            os.setresuid(uid, uid, uid)
            os.write(write, repr(function()).encode())
        except OSError as error:
            code = error.errno
        except BaseException as error:  # noqa: it ends in another process
            os.write(2, repr(error).encode())
            code = 255
        os._exit(code)
    os.close(write)
    result = os.read(read, 65536)
    os.close(read)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))
    return eval(result)


def lock(fd, kind, start=0, length=0, command=fcntl.F_SETLK):
    """A record lock; an OFD lock with another command."""
    data = struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)
    return fcntl.fcntl(fd, command, data)


class Program:
    """Another process, which does what it is told line by line."""

    SOURCE = """
import sys, os, fcntl, struct, mmap
files = {}
def lock(fd, kind, start=0, length=0, command=fcntl.F_SETLK):
    return fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))
for line in sys.stdin:
    try:
        result = eval(line, globals())
        print("ok", repr(result), flush=True)
    except OSError as error:
        print("error", error.errno, flush=True)
"""

    def __init__(self, test):
        self.child = subprocess.Popen(
            [sys.executable, "-c", self.SOURCE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        test.addCleanup(self.end)

    def start(self, text):
        self.child.stdin.write(text + "\n")

    def answer(self):
        kind, value = self.child.stdout.readline().split(" ", 1)
        if kind == "error":
            raise OSError(int(value), os.strerror(int(value)))
        return eval(value)

    def run(self, text):
        self.start(text)
        return self.answer()

    def end(self):
        self.child.kill()
        self.child.wait()
        self.child.stdin.close()
        self.child.stdout.close()


class Case(unittest.TestCase):
    def setUp(self):
        self.name = self.id().rsplit(".", 1)[1]
        self.dir = os.path.join(HERE, self.name)
        os.mkdir(self.dir)
        os.chmod(self.dir, 0o777)
        self.there = os.path.join(THERE, self.name)
        self.fds = []

    def tearDown(self):
        for fd in self.fds:
            try:
                os.close(fd)
            except OSError:
                pass
        shutil.rmtree(self.dir)

    def at(self, name):
        return os.path.join(self.dir, name)

    def open(self, name, flags=os.O_RDWR | os.O_CREAT, mode=0o644):
        fd = os.open(name if os.path.isabs(name) else self.at(name), flags, mode)
        self.fds.append(fd)
        return fd

    def put(self, name, data=b""):
        with open(self.at(name), "wb") as file:
            file.write(data)
        return self.at(name)

    def get(self, path):
        with open(path if os.path.isabs(path) else self.at(path), "rb") as file:
            return file.read()

    def fails(self, number, function, *arguments, **named):
        with self.assertRaises(OSError) as caught:
            function(*arguments, **named)
        self.assertEqual(errno.errorcode[caught.exception.errno], errno.errorcode[number])

    def wait_until(self, what, condition):
        end = time.monotonic() + PATIENCE
        while not condition():
            self.assertLess(time.monotonic(), end, what)
            time.sleep(0.01)


class Times(Case):
    def test_utime_now_and_utime_omit_set_what_they_name(self):
        path = self.put("a", b"x")
        old = 1_000_000_000 * 10**9 + 123_456_789
        os.utime(path, ns=(old, old))
        self.assertEqual((os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns), (old, old))
        before = os.stat(path).st_ctime_ns
        now, omit = (1 << 30) - 1, (1 << 30) - 2
        call("utimensat", AT_FDCWD, path, struct.pack("qqqq", 0, omit, 0, now), 0)
        after = os.stat(path)
        self.assertEqual(after.st_atime_ns, old)
        self.assertLess(abs(after.st_mtime - time.time()), 60)
        self.assertGreater(after.st_ctime_ns, before)
        call("utimensat", AT_FDCWD, path, struct.pack("qqqq", 5, 7, 0, omit), 0)
        self.assertEqual((os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns), (5 * 10**9 + 7, after.st_mtime_ns))
        self.assertEqual(os.stat(os.path.join(self.there, "a")).st_atime_ns, 5 * 10**9 + 7)

    def test_only_the_owner_sets_times_and_a_writer_sets_them_to_now(self):
        path = self.put("a")
        os.chmod(path, 0o666)
        self.fails(errno.EPERM, as_user, 1234, lambda: os.utime(path, (1, 1)))
        as_user(1234, lambda: os.utime(path))
        os.chmod(path, 0o644)
        self.fails(errno.EACCES, as_user, 1234, lambda: os.utime(path))

    def test_times_beyond_32_bits_and_before_the_epoch_are_kept(self):
        path = self.put("a")
        for seconds in [-1, -(2**31), 2**31, 2**32 + 5, 2**33]:
            os.utime(path, ns=(seconds * 10**9 + 1, seconds * 10**9 + 1))
            self.assertEqual(os.stat(path).st_mtime_ns, seconds * 10**9 + 1, seconds)

    def test_statx_tells_the_time_of_birth(self):
        before = time.time()
        path = self.put("a", b"x")
        os.utime(path, (1, 1))
        buffer = ctypes.create_string_buffer(256)
        call("statx", AT_FDCWD, path, 0, 0xFFF, buffer)
        mask, = struct.unpack_from("I", buffer, 0)
        birth, = struct.unpack_from("q", buffer, 0x50)
        size, = struct.unpack_from("Q", buffer, 0x28)
        self.assertTrue(mask & 0x800, hex(mask))
        self.assertEqual(size, 1)
        self.assertLess(abs(birth - before), 60)

    def test_a_mapped_store_and_a_write_raise_mtime_and_ctime(self):
        path = self.put("a", b"x" * 8192)
        os.utime(path, (1, 1))
        fd = self.open("a")
        os.pwrite(fd, b"y", 0)
        self.assertGreater(os.stat(path).st_mtime, 1000)
        os.utime(path, (1, 1))
        with mmap.mmap(fd, 8192) as mapped:
            mapped[100] = 7
            mapped.flush()
        os.fsync(fd)
        self.assertGreater(os.stat(path).st_mtime, 1000)


    def test_every_change_raises_the_times_that_it_must(self):
        def raised(what, path, change, *, mtime=False):
            before = os.stat(path)
            time.sleep(0.005)
            change()
            after = os.stat(path)
            self.assertGreater(after.st_ctime_ns, before.st_ctime_ns, what)
            if mtime:
                self.assertGreater(after.st_mtime_ns, before.st_mtime_ns, what)

        path = self.put("a", b"x" * 5000)
        raised("link", path, lambda: os.link(path, self.at("b")))
        raised("rename", path, lambda: os.rename(self.at("b"), self.at("c")))
        raised("unlink", path, lambda: os.unlink(self.at("c")))
        raised("chmod", path, lambda: os.chmod(path, 0o600))
        raised("utime", path, lambda: os.utime(path, (2, 2)))
        raised("setxattr", path, lambda: os.setxattr(path, "user.x", b""))
        for size in [7, 5000, 5000, 300_000, 300_000, 8, 0]:
            raised(f"truncate {size}", path, lambda: os.truncate(path, size), mtime=True)
        os.mkdir(self.at("dir"))
        raised("a name in it", self.at("dir"), lambda: os.rename(path, self.at("dir/a")), mtime=True)
        raised("a name less", self.at("dir"), lambda: os.unlink(self.at("dir/a")), mtime=True)

        def mapped(path):
            fd = os.open(path, os.O_RDWR)
            with mmap.mmap(fd, 100) as memory:
                os.close(fd)
                memory[5] = 7

        for size in [100, 8192, MIB]:
            path = self.put("mapped", b"x" * size)
            raised(f"a mapping of {size}", path, lambda: mapped(path), mtime=True)


class Permissions(Case):
    def test_the_umask_is_applied_once(self):
        old = os.umask(0o027)
        try:
            os.close(os.open(self.at("file"), os.O_CREAT | os.O_WRONLY, 0o777))
            os.mkdir(self.at("dir"), 0o777)
            os.mkfifo(self.at("fifo"), 0o666)
        finally:
            os.umask(old)
        modes = [stat.S_IMODE(os.stat(self.at(name)).st_mode) for name in ("file", "dir", "fifo")]
        self.assertEqual(modes, [0o750, 0o750, 0o640])

    def test_a_write_of_an_unprivileged_user_drops_setuid_and_setgid(self):
        def changed(change, mode):
            path = self.put("a", b"x" * 100_000)
            os.chmod(path, mode)
            as_user(1234, lambda: change(path))
            left = stat.S_IMODE(os.stat(path).st_mode)
            self.assertEqual(stat.S_IMODE(os.stat(os.path.join(self.there, "a")).st_mode), left)
            os.unlink(path)
            return left

        def opened(change):
            def run(path):
                fd = os.open(path, os.O_RDWR)
                change(fd)
                os.close(fd)
            return run

        def copied(fd):
            self.assertGreater(os.copy_file_range(fd, fd, 10, 0, 50_000), 0)

        changes = {
            "write": opened(lambda fd: os.pwrite(fd, b"y", 5)),
            "ftruncate": opened(lambda fd: os.ftruncate(fd, 7)),
            "truncate": lambda path: os.truncate(path, 8),
            "fallocate": opened(lambda fd: fallocate(fd, 0, 0, 200_000)),
            "punch": opened(lambda fd: fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, 4096)),
            "copy": opened(copied),
            "O_TRUNC": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
        }
        left = {name: oct(changed(change, 0o6777)) for name, change in changes.items()}
        self.assertEqual(left, {name: "0o777" for name in changes})
        # Without group execution the bit means mandatory locking, and stays.
        left = {name: oct(changed(change, 0o2767) & 0o2000) for name, change in changes.items()}
        self.assertEqual(left, {name: "0o2000" for name in changes})

    def test_it_does_so_in_files_that_are_written_past_the_mount(self):
        # A directory with large files gets more of them: the kernel writes those to the local disk by itself.
        for number in range(3):
            self.put(f"large-{number}", bytes(4 * MIB))

        def written():
            fd = os.open(self.at("new"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o6777)
            os.fchmod(fd, 0o6777)
            before = os.fstat(fd).st_mode & 0o7777
            for _ in range(8):
                os.write(fd, bytes(MIB))
            return before, os.fstat(fd).st_mode & 0o7777

        self.assertEqual(as_user(1234, written), (0o6777, 0o777))
        self.assertEqual(os.stat(self.at("new")).st_mode & 0o7777, 0o777)
        os.chmod(self.at("new"), 0o6777)
        reader = self.open("new", os.O_RDONLY)
        self.assertEqual(len(os.pread(reader, 8, 0)), 8)

        def rewritten():
            fd = os.open(self.at("new"), os.O_WRONLY)
            os.write(fd, b"x")

        as_user(1234, rewritten)
        self.assertEqual(os.stat(self.at("new")).st_mode & 0o7777, 0o777)

    def test_root_keeps_setuid_when_it_writes(self):
        path = self.put("a", b"x")
        os.chmod(path, 0o4755)
        fd = self.open("a")
        os.pwrite(fd, b"y", 0)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o4755)
        os.chown(path, 7, 7)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o755)

    def test_setgid_is_handed_down_and_needs_the_group(self):
        os.chown(self.dir, 1234, 4321)
        os.chmod(self.dir, 0o2777)
        os.mkdir(self.at("sub"))
        self.put("file")
        self.assertEqual((os.stat(self.at("sub")).st_gid, os.stat(self.at("sub")).st_mode & 0o2000), (4321, 0o2000))
        self.assertEqual(os.stat(self.at("file")).st_gid, 4321)
        # Neither may somebody outside the group make a file that is executed as the group.
        make = lambda name: os.close(os.open(self.at(name), os.O_CREAT | os.O_WRONLY, 0o2777))
        as_user(1234, lambda: make("outside"))
        self.assertEqual(os.stat(self.at("outside")).st_mode & 0o2000, 0)
        as_user(1234, lambda: make("inside"), groups=[4321])
        self.assertEqual(os.stat(self.at("inside")).st_mode & 0o2000, 0o2000)
        as_user(1234, lambda: os.chmod(self.at("outside"), 0o2755))
        self.assertEqual(os.stat(self.at("outside")).st_mode & 0o2000, 0)

    def test_in_a_sticky_directory_only_owners_remove_and_rename(self):
        os.chmod(self.dir, 0o1777)
        path = self.put("a")
        for change in [
            lambda: os.unlink(path),
            lambda: os.rename(path, self.at("b")),
            lambda: renameat2(path, self.at("b"), RENAME_NOREPLACE),
        ]:
            self.fails(errno.EPERM, as_user, 1234, change)
        os.chown(path, 1234, 1234)
        as_user(1234, lambda: os.rename(path, self.at("b")))
        as_user(1234, lambda: os.unlink(self.at("b")))


class Names(Case):
    def test_rename_flags_keep_replace_and_exchange(self):
        a, b = self.put("a", b"a"), self.put("b", b"b")
        self.fails(errno.EEXIST, renameat2, a, b, RENAME_NOREPLACE)
        self.fails(errno.EINVAL, renameat2, a, b, RENAME_NOREPLACE | RENAME_EXCHANGE)
        self.fails(errno.EINVAL, renameat2, a, b, 64)
        renameat2(a, b, RENAME_EXCHANGE)
        self.assertEqual((self.get("a"), self.get("b")), (b"b", b"a"))
        self.assertEqual(self.get(os.path.join(self.there, "a")), b"b")
        self.fails(errno.ENOENT, renameat2, a, self.at("none"), RENAME_EXCHANGE)
        os.mkdir(self.at("dir"))
        renameat2(a, self.at("dir"), RENAME_EXCHANGE)
        self.assertTrue(os.path.isdir(a) and os.path.isfile(self.at("dir")))

    def test_a_whiteout_is_left_behind(self):
        a = self.put("a", b"a")
        os.mkdir(self.at("dir"))
        renameat2(a, self.at("dir/a"), RENAME_WHITEOUT)
        left = os.lstat(a)
        self.assertTrue(stat.S_ISCHR(left.st_mode))
        self.assertEqual((left.st_rdev, self.get("dir/a")), (0, b"a"))
        self.assertTrue(stat.S_ISCHR(os.lstat(os.path.join(self.there, "a")).st_mode))
        self.fails(errno.EINVAL, renameat2, a, self.at("x"), RENAME_WHITEOUT | RENAME_EXCHANGE)
        self.assertEqual(sorted(os.listdir(self.dir)), ["a", "dir"])

    def test_limits_of_names_and_paths(self):
        for name in ["x" * 255, "\u00e4" * 127]:
            self.put(name)
            self.assertIn(name, os.listdir(self.dir))
        self.fails(errno.ENAMETOOLONG, self.put, "x" * 256)
        self.fails(errno.ENAMETOOLONG, os.stat, self.at("x/" * 2100))
        os.symlink("y" * 4095, self.at("link"))
        self.assertEqual(os.readlink(self.at("link")), "y" * 4095)
        self.fails(errno.ENAMETOOLONG, os.symlink, "y" * 4096, self.at("link2"))
        self.assertEqual(os.statvfs(self.dir).f_namemax, 255)
        for odd in [b"\x01\xff\n", b"-", b" ", b"\\", b"*"]:
            path = os.fsencode(self.dir) + b"/" + odd
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
            self.assertIn(odd, os.listdir(os.fsencode(self.dir)))

    def test_a_file_without_a_name_gets_one_by_linkat(self):
        fd = os.open(self.dir, os.O_TMPFILE | os.O_RDWR, 0o640)
        self.fds.append(fd)
        data = os.urandom(100_000)
        os.write(fd, data)
        self.assertEqual((os.fstat(fd).st_nlink, os.fstat(fd).st_size, os.listdir(self.dir)), (0, 100_000, []))
        link_open(fd, self.at("named"))
        self.assertEqual((os.fstat(fd).st_nlink, os.stat(self.at("named")).st_ino), (1, os.fstat(fd).st_ino))
        self.assertEqual(self.get(os.path.join(self.there, "named")), data)
        os.pwrite(fd, b"more", 0)
        os.close(fd)
        self.assertEqual(self.get("named"), b"more" + data[4:])
        self.assertEqual(stat.S_IMODE(os.stat(self.at("named")).st_mode), 0o640)

    def test_a_file_without_a_name_that_may_not_get_one_does_not(self):
        fd = os.open(self.dir, os.O_TMPFILE | os.O_WRONLY | os.O_EXCL)
        self.fds.append(fd)
        self.fails(errno.ENOENT, link_open, fd, self.at("named"))
        self.fails(errno.EINVAL, os.open, self.dir, os.O_TMPFILE | os.O_RDONLY)
        fd = self.open("gone")
        os.unlink(self.at("gone"))
        self.fails(errno.ENOENT, link_open, fd, self.at("back"))

    def test_what_is_replaced_has_no_link_left(self):
        self.put("a", b"1")
        self.put("b", b"2")
        fd = self.open("b")
        os.rename(self.at("a"), self.at("b"))
        self.assertEqual((os.fstat(fd).st_nlink, os.pread(fd, 5, 0), self.get("b")), (0, b"2", b"1"))
        os.mkdir(self.at("one"))
        os.mkdir(self.at("two"))
        fd = self.open("two", os.O_RDONLY | os.O_DIRECTORY)
        os.rename(self.at("one"), self.at("two"))
        self.assertEqual(os.fstat(fd).st_nlink, 0)

    def test_links_count_and_keep_the_file(self):
        a = self.put("a", b"data")
        os.link(a, self.at("b"))
        self.assertEqual(os.stat(a).st_nlink, 2)
        self.assertEqual(os.stat(os.path.join(self.there, "b")).st_ino, os.stat(a).st_ino)
        os.unlink(a)
        self.assertEqual((self.get("b"), os.stat(self.at("b")).st_nlink), (b"data", 1))
        self.fails(errno.EPERM, os.link, self.dir, self.at("dir"))

    def test_an_open_file_lives_on_without_a_name(self):
        fd = self.open("a")
        os.write(fd, b"data")
        os.unlink(os.path.join(self.there, "a"))
        self.assertEqual((os.pread(fd, 10, 0), os.fstat(fd).st_nlink), (b"data", 0))
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, 2)
        self.assertEqual(os.pread(fd, 10, 0), b"da")


class Directories(Case):
    def fill(self, count):
        for number in range(count):
            os.close(os.open(self.at(f"file-{number:05}"), os.O_CREAT | os.O_WRONLY))

    def entries(self, fd, size=32768):
        """The next getdents64 of a directory: (cookie, name) of each entry."""
        buffer = ctypes.create_string_buffer(size)
        length = libc.syscall(217, fd, buffer, size)
        self.assertGreaterEqual(length, 0)
        at, found = 0, []
        while at < length:
            _, cookie, record = struct.unpack_from("QqH", buffer, at)
            name = buffer.raw[at + 19 : at + record].split(b"\0", 1)[0].decode()
            found.append((cookie, name))
            at += record
        return found

    def test_each_name_is_listed_once_while_all_others_are_removed(self):
        self.fill(1000)
        seen = []
        fd = self.open(self.dir, os.O_RDONLY | os.O_DIRECTORY)
        while found := self.entries(fd, 4096):
            for _, name in found:
                if name.startswith("file"):
                    seen.append(name)
                    os.unlink(self.at(name))
        self.assertEqual(seen, sorted(set(seen)))
        self.assertEqual((len(seen), os.listdir(self.dir)), (1000, []))

    def test_cookies_stay_right_while_the_directory_changes(self):
        self.fill(500)
        fd = self.open(self.dir, os.O_RDONLY | os.O_DIRECTORY)
        order = []
        while found := self.entries(fd, 2048):
            order.extend(found)
        names = [name for _, name in order]
        self.assertEqual(len(set(names)), 502)
        # Removed and added names do not move the others.
        for number in range(0, 500, 3):
            os.unlink(self.at(f"file-{number:05}"))
        for number in range(50):
            self.put(f"new-{number}")
        left = set(os.listdir(self.dir))
        for index in [1, 100, 250, 498]:
            os.lseek(fd, order[index][0], os.SEEK_SET)
            rest = []
            while found := self.entries(fd, 1024):
                rest.extend(name for _, name in found)
            expected = [name for name in names[index + 1 :] if name in left]
            self.assertEqual([name for name in rest if name.startswith("file")], expected)
        os.lseek(fd, 0, os.SEEK_SET)
        rewound = []
        while found := self.entries(fd):
            rewound.extend(name for _, name in found)
        self.assertEqual(set(rewound), left | {".", ".."})

    def test_what_is_listed_has_types_and_inodes(self):
        self.put("file")
        os.mkdir(self.at("dir"))
        os.symlink("x", self.at("link"))
        os.mkfifo(self.at("fifo"))
        with os.scandir(self.dir) as found:
            for entry in found:
                self.assertEqual(entry.inode(), os.lstat(entry.path).st_ino)
                self.assertEqual(entry.is_symlink(), entry.name == "link")
                self.assertEqual(entry.is_dir(follow_symlinks=False), entry.name == "dir")

    def test_a_removed_directory_that_is_open_is_empty(self):
        os.mkdir(self.at("dir"))
        fd = self.open("dir", os.O_RDONLY | os.O_DIRECTORY)
        os.rmdir(self.at("dir"))
        self.fails(errno.ENOENT, os.open, "x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        self.assertEqual((os.listdir(fd), os.fstat(fd).st_nlink), ([], 0))

    def test_a_directory_is_not_moved_below_itself(self):
        os.makedirs(self.at("a/b/c"))
        self.fails(errno.EINVAL, os.rename, self.at("a"), self.at("a/b/c/d"))
        self.fails(errno.ENOTEMPTY, os.rename, self.at("a/b"), self.dir)
        self.fails(errno.ENOTEMPTY, os.rmdir, self.at("a"))
        self.assertEqual(os.stat(self.at("a")).st_nlink, 3)


class Data(Case):
    def test_holes_are_found_and_punched(self):
        fd = self.open("a")
        os.ftruncate(fd, 10 * MIB)
        os.pwrite(fd, b"x" * MIB, 3 * MIB)
        os.pwrite(fd, b"x" * MIB, 7 * MIB)
        self.assertEqual(os.lseek(fd, 0, SEEK_DATA), 3 * MIB)
        self.assertEqual(os.lseek(fd, 3 * MIB, SEEK_HOLE), 4 * MIB)
        self.assertEqual(os.lseek(fd, 5 * MIB, SEEK_DATA), 7 * MIB)
        self.assertEqual(os.lseek(fd, 8 * MIB, SEEK_HOLE), 8 * MIB)
        self.fails(errno.ENXIO, os.lseek, fd, 8 * MIB, SEEK_DATA)
        self.fails(errno.ENXIO, os.lseek, fd, 10 * MIB, SEEK_HOLE)
        self.fails(errno.ENXIO, os.lseek, fd, 11 * MIB, SEEK_DATA)
        used = os.fstat(fd).st_blocks
        fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 3 * MIB, MIB)
        self.assertEqual(os.lseek(fd, 0, SEEK_DATA), 7 * MIB)
        self.assertEqual(os.pread(fd, MIB, 3 * MIB), bytes(MIB))
        self.assertLess(os.fstat(fd).st_blocks, used)
        self.assertEqual(os.fstat(fd).st_size, 10 * MIB)
        small = self.open("small")
        os.write(small, b"data")
        self.assertEqual((os.lseek(small, 1, SEEK_DATA), os.lseek(small, 1, SEEK_HOLE)), (1, 4))
        self.fails(errno.ENXIO, os.lseek, small, 4, SEEK_DATA)

    def test_fallocate_modes(self):
        fd = self.open("a")
        fallocate(fd, 0, 0, 100_000)
        self.assertEqual((os.fstat(fd).st_size, os.pread(fd, 100, 0)), (100_000, bytes(100)))
        fallocate(fd, KEEP_SIZE, 0, 300_000)
        self.assertEqual(os.fstat(fd).st_size, 100_000)
        os.pwrite(fd, b"y" * 100_000, 0)
        fallocate(fd, ZERO_RANGE, 10, 20)
        self.assertEqual(os.pread(fd, 40, 0), b"y" * 10 + bytes(20) + b"y" * 10)
        fallocate(fd, ZERO_RANGE, 99_990, 20)
        self.assertEqual((os.fstat(fd).st_size, os.pread(fd, 40, 99_985)), (100_010, b"y" * 5 + bytes(20)))
        fallocate(fd, ZERO_RANGE | KEEP_SIZE, 100_000, 1000)
        self.assertEqual(os.fstat(fd).st_size, 100_010)
        for mode in [COLLAPSE_RANGE, INSERT_RANGE]:
            self.fails(errno.EOPNOTSUPP, fallocate, fd, mode, 0, 4096)
        self.fails(errno.EINVAL, fallocate, fd, 0, 0, 0)
        self.fails(errno.EINVAL, fallocate, fd, 0, -1, 10)
        self.fails(errno.EBADF, fallocate, self.open("a", os.O_RDONLY), 0, 0, 10)
        self.fails(errno.EFBIG, fallocate, fd, 0, 1 << 62, 10)
        os.posix_fallocate(fd, 0, 400_000)
        self.assertEqual(os.fstat(fd).st_size, 400_000)

    def test_files_have_at_most_16_tib(self):
        largest = (1 << 44) - 4096
        fd = self.open("a")
        self.assertEqual(os.pwrite(fd, b"end", largest - 3), 3)
        self.assertEqual((os.fstat(fd).st_size, os.pread(fd, 10, largest - 3)), (largest, b"end"))
        self.assertLess(os.fstat(fd).st_blocks, 4096)
        self.fails(errno.EFBIG, os.pwrite, fd, b"x", largest)
        self.fails(errno.EFBIG, os.ftruncate, fd, largest + 1)
        self.fails(errno.EFBIG, os.truncate, self.at("a"), (1 << 63) - 1)
        os.ftruncate(fd, 5)
        self.assertEqual(os.pread(fd, 10, 0), bytes(5))
        self.fails(errno.EINVAL, os.ftruncate, fd, -1)

    def test_a_limit_on_the_size_of_files_holds(self):
        path = self.put("a")

        def limited():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            fd = os.open(path, os.O_WRONLY)
            first = os.pwrite(fd, b"x" * 2000, 0)
            try:
                os.pwrite(fd, b"x", 1000)
            except OSError as error:
                return first, error.errno

        os.chmod(path, 0o666)
        self.assertEqual(as_user(1234, limited), (1000, errno.EFBIG))

    def test_copies_within_the_file_system(self):
        data = os.urandom(5 * MIB + 321)
        self.put("a", data)
        source, target = self.open("a", os.O_RDONLY), self.open("b")
        copied = 0
        while part := os.copy_file_range(source, target, 1 << 30, copied, copied):
            copied += part
        self.assertEqual((copied, self.get("b") == data), (len(data), True))
        self.assertEqual(self.get(os.path.join(self.there, "b")), data)
        # Into the middle, at odd places, and within one file.
        self.assertEqual(os.copy_file_range(source, target, 200_000, 77, 1_000_001), 200_000)
        expected = bytearray(data)
        expected[1_000_001:1_200_001] = data[77:200_077]
        self.assertTrue(self.get("b") == bytes(expected))
        self.assertEqual(os.copy_file_range(target, target, 100_000, 0, 3 * MIB), 100_000)
        expected[3 * MIB : 3 * MIB + 100_000] = expected[:100_000]
        self.assertTrue(self.get("b") == bytes(expected))
        self.fails(errno.EINVAL, os.copy_file_range, target, target, 1000, 0, 500)
        self.assertEqual(os.copy_file_range(source, target, 10, len(data), 0), 0)
        small = self.open("small")
        self.assertEqual(os.copy_file_range(source, small, 100, 0, 50), 100)
        self.assertEqual(self.get("small"), bytes(50) + data[:100])
        self.fails(errno.EBADF, os.copy_file_range, source, source, 10, 0, 100)
        self.fails(errno.EBADF, os.copy_file_range, source, self.open("b", os.O_WRONLY | os.O_APPEND), 10, 0, 0)
        self.fails(errno.EISDIR, os.copy_file_range, self.open(self.dir, os.O_RDONLY), target, 10, 0, 0)

    def test_appends_go_to_the_end_whatever_the_offset(self):
        fd = self.open("a", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.write(fd, b"one")
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"two")
        self.assertEqual(os.pwrite(fd, b"!", 0), 1)
        self.assertEqual(self.get("a"), b"onetwo!")

    def test_direct_io_reads_and_writes(self):
        fd = self.open("a", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        page = mmap.mmap(-1, 8192)
        page.write(os.urandom(8192))
        self.assertEqual(os.pwritev(fd, [page], 4096), 8192)
        back = mmap.mmap(-1, 8192)
        self.assertEqual(os.preadv(fd, [back], 4096), 8192)
        self.assertEqual(back[:], page[:])
        self.assertEqual(self.get("a"), bytes(4096) + page[:])

    def test_syncing_works_on_everything(self):
        fd = self.open("a")
        os.write(fd, b"x" * 100_000)
        os.fsync(fd)
        os.fdatasync(fd)
        call("syncfs", fd)
        os.fsync(self.open(self.dir, os.O_RDONLY | os.O_DIRECTORY))
        reader = self.open("a", os.O_RDONLY)
        os.fsync(reader)
        self.open("b", os.O_RDWR | os.O_CREAT | os.O_SYNC)
        self.assertEqual(os.write(self.fds[-1], b"y" * 50_000), 50_000)

    def test_blocks_are_counted_as_soon_as_there_is_data(self):
        for size in [1, 512, 4096, 20_000, MIB]:
            fd = self.open("a", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            os.write(fd, b"x" * size)
            self.assertGreater(os.fstat(fd).st_blocks, 0)
            os.close(fd)
            self.assertGreater(os.stat(self.at("a")).st_blocks, 0)

    def test_pipes_and_handles_lead_to_the_same_bytes(self):
        data = os.urandom(100_000)
        path = self.put("a", data)
        fd = self.open("a", os.O_RDONLY | os.O_DIRECT)
        read, write = os.pipe()
        self.fds += [read, write]
        self.assertEqual(os.splice(fd, write, 4096, offset_src=0), 4096)
        self.assertEqual(os.read(read, 8192), data[:4096])
        handle, mount = ctypes.create_string_buffer(136), ctypes.c_int()
        struct.pack_into("I", handle, 0, 128)
        call("name_to_handle_at", AT_FDCWD, path, handle, ctypes.byref(mount), 0)
        where = self.open(self.dir, os.O_RDONLY)
        self.fds.append(call("open_by_handle_at", where, handle, os.O_RDONLY))
        self.assertEqual(os.pread(self.fds[-1], 10, 5), data[5:15])

    def test_descriptors_are_checked(self):
        fd = self.open("a", os.O_WRONLY | os.O_CREAT)
        self.fails(errno.EBADF, os.read, fd, 10)
        self.fails(errno.EBADF, os.write, self.open("a", os.O_RDONLY), b"x")
        self.fails(errno.EISDIR, os.open, self.dir, os.O_WRONLY)
        self.fails(errno.ENOTDIR, os.open, self.at("a/b"), os.O_RDONLY)
        self.fails(errno.ENOTDIR, os.open, self.at("a"), os.O_RDONLY | os.O_DIRECTORY)
        self.fails(errno.EEXIST, os.open, self.at("a"), os.O_CREAT | os.O_EXCL)
        os.symlink("a", self.at("link"))
        self.fails(errno.ELOOP, os.open, self.at("link"), os.O_RDONLY | os.O_NOFOLLOW)
        self.fails(errno.EEXIST, os.open, self.at("link"), os.O_CREAT | os.O_EXCL)
        os.symlink("loop", self.at("loop"))
        self.fails(errno.ELOOP, os.stat, self.at("loop"))


class Mapped(Case):
    def test_two_processes_share_a_mapping(self):
        path = self.put("a", bytes(3 * 4096))
        other = Program(self)
        other.run(f"files.update(f=os.open({path!r}, os.O_RDWR))")
        other.run("files.update(m=mmap.mmap(files['f'], 3 * 4096))")
        with mmap.mmap(self.open("a"), 3 * 4096) as mapped:
            for number in range(1, 200):
                mapped[number * 7] = number
                self.assertEqual(other.run(f"files['m'][{number} * 7]"), number)
                other.run(f"files['m'].__setitem__({number} * 7 + 5000, {255 - number})")
                self.assertEqual(mapped[number * 7 + 5000], 255 - number)
            mapped.flush()
        self.assertEqual(self.get(os.path.join(self.there, "a"))[7], 1)

    def test_a_mapping_and_writes_see_each_other(self):
        fd = self.open("a")
        os.write(fd, b"." * 10_000)
        with mmap.mmap(fd, 10_000) as mapped:
            os.pwrite(fd, b"written", 5000)
            self.assertEqual(mapped[5000:5007], b"written")
            mapped[6000:6006] = b"mapped"
            self.assertEqual(os.pread(fd, 6, 6000), b"mapped")
        os.close(fd)
        self.assertEqual(self.get(os.path.join(self.there, "a"))[6000:6006], b"mapped")

    def test_a_mapping_outlives_its_descriptor_and_its_name(self):
        fd = self.open("a")
        os.write(fd, b"x" * 8192)
        mapped = mmap.mmap(fd, 8192)
        os.close(fd)
        os.unlink(self.at("a"))
        self.assertEqual(mapped[5000], ord("x"))
        mapped[5000] = 1
        mapped.close()

    def test_beyond_the_end_is_a_bus_error(self):
        path = self.put("a", b"x" * 100)
        source = f"import mmap,os; f=os.open({path!r},os.O_RDWR); m=mmap.mmap(f,100); os.ftruncate(f, 0); m[0]"
        self.assertEqual(subprocess.run([sys.executable, "-c", source]).returncode, -signal.SIGBUS)

    def test_a_private_mapping_changes_nothing(self):
        path = self.put("a", b"x" * 4096)
        with mmap.mmap(self.open("a", os.O_RDONLY), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
            mapped[0] = 7
        self.assertEqual(self.get(path), b"x" * 4096)


class Executed(Case):
    def compiled(self, name, source, *flags):
        subprocess.run(["cc", "-x", "c", "-o", self.at(name), *flags, "-"], input=source, text=True, check=True)
        return self.at(name)

    def test_a_binary_runs_and_cannot_be_written_meanwhile(self):
        program = self.compiled("program", "#include <stdio.h>\nint main() { puts(\"runs\"); return getchar() != 'x'; }")
        child = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.fails(errno.ETXTBSY, os.open, program, os.O_WRONLY)
        self.fails(errno.ETXTBSY, os.truncate, program, 0)
        self.assertEqual(child.communicate("x")[0], "runs\n")
        self.assertEqual(child.returncode, 0)
        fd = self.open("program", os.O_WRONLY)
        self.fails(errno.ETXTBSY, subprocess.run, [program])
        os.close(fd)
        other = os.path.join(self.there, "program")
        self.assertEqual(subprocess.run([other], input="x", text=True, capture_output=True).stdout, "runs\n")

    def test_a_library_is_loaded(self):
        library = self.compiled("lib.so", "int answer(void) { return 42; }", "-shared", "-fPIC")
        self.assertEqual(ctypes.CDLL(library).answer(), 42)

    def test_a_script_runs_and_needs_its_bit(self):
        path = self.put("script", b"#!/bin/sh\necho \"$0\"\n")
        self.fails(errno.EACCES, subprocess.run, [path])
        os.chmod(path, 0o755)
        self.assertEqual(subprocess.run([path], capture_output=True, text=True).stdout.strip(), path)


class Attributes(Case):
    def test_values_come_back_and_flags_decide(self):
        path = self.put("a")
        for name in ["user.x", "trusted.x", "security.x", "user." + "n" * 250]:
            os.setxattr(path, name, b"\0value\xff")
            self.assertEqual(os.getxattr(os.path.join(self.there, "a"), name), b"\0value\xff")
        self.assertEqual(len(os.listxattr(path)), 4)
        self.fails(errno.EEXIST, os.setxattr, path, "user.x", b"", os.XATTR_CREATE)
        self.fails(errno.ENODATA, os.setxattr, path, "user.y", b"", os.XATTR_REPLACE)
        os.setxattr(path, "user.x", b"", os.XATTR_REPLACE)
        self.assertEqual(os.getxattr(path, "user.x"), b"")
        os.removexattr(path, "user.x")
        self.fails(errno.ENODATA, os.getxattr, path, "user.x")
        self.fails(errno.ENODATA, os.removexattr, path, "user.x")
        os.rename(path, self.at("b"))
        self.assertEqual(len(os.listxattr(self.at("b"))), 3)

    def test_limits(self):
        path = self.put("a")
        os.setxattr(path, "user.large", b"v" * 65536)
        self.assertEqual(len(os.getxattr(path, "user.large")), 65536)
        self.fails(errno.E2BIG, os.setxattr, path, "user.larger", b"v" * 65537)
        self.fails(errno.ERANGE, os.setxattr, path, "user." + "n" * 251, b"")
        buffer = ctypes.create_string_buffer(100)
        self.fails(errno.ERANGE, call, "getxattr", path, "user.large", buffer, 100)
        self.assertEqual(call("getxattr", path, "user.large", None, 0), 65536)
        self.fails(errno.ERANGE, call, "listxattr", path, buffer, 5)
        with self.assertRaises(OSError) as full:
            for number in range(10):
                os.setxattr(path, f"user.more{number}", b"v" * 65536)
        self.assertEqual(full.exception.errno, errno.ENOSPC)
        os.removexattr(path, "user.large")
        os.setxattr(path, "user.again", b"v" * 60000)

    def test_the_list_of_names_has_a_limit(self):
        path = self.put("a")
        for number in range(300):
            os.setxattr(path, f"user.{number:03}" + "n" * 247, b"")
        self.assertGreaterEqual(call("listxattr", path, None, 0), 65536)
        self.fails(errno.E2BIG, call, "listxattr", path, ctypes.create_string_buffer(100_000), 100_000)

    def test_namespaces(self):
        path = self.put("a")
        os.chmod(path, 0o666)
        for name in ["foo.bar", "system.other", "nothing"]:
            self.fails(errno.EOPNOTSUPP, os.setxattr, path, name, b"")
        as_user(1234, lambda: os.setxattr(path, "user.mine", b""))
        self.fails(errno.EPERM, as_user, 1234, lambda: os.setxattr(path, "trusted.mine", b""))
        os.setxattr(path, "trusted.hidden", b"")
        self.assertNotIn("trusted.hidden", as_user(1234, lambda: os.listxattr(path)))
        os.symlink("x", self.at("link"))
        self.fails(errno.EPERM, os.setxattr, self.at("link"), "user.x", b"", follow_symlinks=False)
        os.setxattr(self.at("link"), "trusted.x", b"1", follow_symlinks=False)
        os.mkdir(self.at("dir"))
        os.setxattr(self.at("dir"), "user.x", b"1")


def acl(*entries):
    """An access control list: (tag, permissions[, id])."""
    form = [(entry + (0xFFFFFFFF,))[:3] for entry in entries]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in form)


OWNER, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


class Lists(Case):
    def reads(self, path, uid, gid=None, groups=()):
        try:
            return as_user(uid, lambda: os.close(os.open(path, os.O_RDONLY)) is None, gid, groups)
        except PermissionError:
            return False

    def test_named_users_and_groups_are_let_in_within_the_mask(self):
        path = self.put("a")
        os.chmod(path, 0o600)
        self.assertFalse(self.reads(path, 1234))
        self.fails(errno.ENODATA, os.getxattr, path, ACCESS)
        listed = acl((OWNER, 6), (USER, 4, 1234), (GROUP_OBJ, 0), (GROUP, 4, 777), (MASK, 4), (OTHER, 0))
        os.setxattr(path, ACCESS, listed)
        self.assertEqual(os.getxattr(path, ACCESS), listed)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o640)
        there = os.path.join(THERE, os.path.relpath(path, HERE))
        for seen in (path, there):
            self.assertTrue(self.reads(seen, 1234))
            self.assertTrue(self.reads(seen, 1235, 777))
            self.assertTrue(self.reads(seen, 1235, 1235, (777,)))
            self.assertFalse(self.reads(seen, 1235))
        self.fails(errno.EACCES, as_user, 1234, lambda: os.close(os.open(path, os.O_WRONLY)))
        # What is taken away on one mount is taken away on all.
        os.chmod(there, 0o600)
        self.assertFalse(self.reads(path, 1234) or self.reads(there, 1234))
        os.removexattr(path, ACCESS)
        self.fails(errno.ENODATA, os.getxattr, there, ACCESS)
        self.assertNotIn(ACCESS, os.listxattr(path))

    def test_only_the_owner_changes_them_and_nonsense_is_refused(self):
        path = self.put("a")
        plain = acl((OWNER, 6), (GROUP_OBJ, 4), (OTHER, 4))
        self.fails(errno.EPERM, as_user, 1234, lambda: os.setxattr(path, ACCESS, plain))
        self.fails(errno.EINVAL, os.setxattr, path, ACCESS, plain[:-1])
        self.fails(errno.EINVAL, os.setxattr, path, ACCESS, acl((OWNER, 6), (USER, 4, 5), (GROUP_OBJ, 4), (OTHER, 4)))
        self.fails(errno.EACCES, os.setxattr, path, DEFAULT, plain)
        os.setxattr(path, ACCESS, acl((OWNER, 6), (GROUP_OBJ, 0), (OTHER, 4)))
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o604)
        self.fails(errno.ENODATA, os.getxattr, path, ACCESS)
        # setgid goes if somebody outside the group sets a list.
        os.chown(path, 1234, 4321)
        os.chmod(path, 0o2755)
        as_user(1234, lambda: os.setxattr(path, ACCESS, acl((OWNER, 7), (GROUP_OBJ, 5), (OTHER, 5))))
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o755)

    def test_what_is_made_in_a_directory_gets_its_default(self):
        directory = self.at("dir")
        os.mkdir(directory)
        default = acl((OWNER, 7), (USER, 6, 1234), (GROUP_OBJ, 5), (MASK, 7), (OTHER, 0))
        os.setxattr(directory, DEFAULT, default)
        before = os.umask(0o77)
        try:
            there = os.path.join(THERE, os.path.relpath(directory, HERE))
            for name, base in (("here", directory), ("there", there)):
                path = os.path.join(base, name)
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o666))
                self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o660)
                expected = acl((OWNER, 6), (USER, 6, 1234), (GROUP_OBJ, 5), (MASK, 6), (OTHER, 0))
                self.assertEqual(os.getxattr(path, ACCESS), expected)
                self.assertTrue(self.reads(path, 1234))
                os.mkdir(path + "-dir")
                self.assertEqual(os.getxattr(path + "-dir", DEFAULT), default)
            os.close(os.open(self.at("masked"), os.O_CREAT | os.O_RDWR, 0o666))
            self.assertEqual(stat.S_IMODE(os.stat(self.at("masked")).st_mode), 0o600)
            fd = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o666)
            link_open(fd, os.path.join(directory, "made without a name"))
            self.assertEqual(stat.S_IMODE(os.fstat(fd).st_mode), 0o660)
            os.close(fd)
        finally:
            os.umask(before)


class Locks(Case):
    def test_record_locks_hold_across_mounts_and_end_with_a_close(self):
        path = self.put("a", b"x" * 100)
        here, other = self.open("a"), Program(self)
        other.run(f"files.update(f=os.open({os.path.join(self.there, 'a')!r}, os.O_RDWR))")
        lock(here, fcntl.F_WRLCK, 10, 10)
        for kind in [fcntl.F_WRLCK, fcntl.F_RDLCK]:
            self.fails(errno.EAGAIN, other.run, f"lock(files['f'], {kind}, 15, 1)")
        other.run(f"lock(files['f'], {fcntl.F_WRLCK}, 20, 5)")
        found = struct.unpack("hhqqi4x", lock(here, fcntl.F_WRLCK, 0, 0, fcntl.F_GETLK))
        self.assertEqual((found[0], found[2:4]), (fcntl.F_WRLCK, (20, 5)))
        # Any close of the file by the process ends all its locks.
        os.close(self.open("a", os.O_RDONLY))
        other.run(f"lock(files['f'], {fcntl.F_WRLCK}, 10, 10)")
        self.assertRaises(OSError, lock, here, fcntl.F_WRLCK, 10, 1)

    def test_who_waits_for_a_lock_gets_it_when_its_holder_dies(self):
        path = self.put("a", b"x" * 100)
        holder, waiter = Program(self), Program(self)
        holder.run(f"files.update(f=os.open({os.path.join(self.there, 'a')!r}, os.O_RDWR))")
        waiter.run(f"files.update(f=os.open({path!r}, os.O_RDWR))")
        for text in [f"lock(files['f'], {fcntl.F_WRLCK}, 0, 0, CMD)", "fcntl.flock(files['f'], fcntl.LOCK_EX)"]:
            holder.run(text.replace("CMD", str(fcntl.F_SETLK)))
            waiter.start(text.replace("CMD", str(fcntl.F_SETLKW)))
            if text.startswith("fcntl"):
                holder.end()
            else:
                holder.run(f"lock(files['f'], {fcntl.F_UNLCK})")
            waiter.answer()

    def test_a_deadlock_across_mounts_is_found(self):
        path = self.put("a", b"x" * 100)
        one, two = Program(self), Program(self)
        one.run(f"files.update(f=os.open({path!r}, os.O_RDWR))")
        two.run(f"files.update(f=os.open({os.path.join(self.there, 'a')!r}, os.O_RDWR))")
        one.run(f"lock(files['f'], {fcntl.F_WRLCK}, 0, 10)")
        two.run(f"lock(files['f'], {fcntl.F_WRLCK}, 10, 10)")
        one.start(f"lock(files['f'], {fcntl.F_WRLCK}, 10, 10, {fcntl.F_SETLKW})")

        def asleep():
            # Where it waits for the daemon.
            with open(f"/proc/{one.child.pid}/syscall") as file:
                return file.read().startswith("72 ")

        self.wait_until("the first one waits", asleep)
        time.sleep(0.3)  # Until the master knows it; if it does not, the second one waits in its place.
        two.start(f"lock(files['f'], {fcntl.F_WRLCK}, 0, 10, {fcntl.F_SETLKW})")
        results = []
        for program in [two, one]:
            try:
                program.answer()
                results.append(0)
            except OSError as error:
                results.append(error.errno)
                program.run(f"lock(files['f'], {fcntl.F_UNLCK})")
        self.assertEqual(sorted(results), [0, errno.EDEADLK])

    def test_locks_of_open_file_descriptions_belong_to_them(self):
        self.put("a", b"x" * 100)
        one, two = self.open("a"), self.open("a")
        other = self.open(os.path.join(self.there, "a"))
        lock(one, fcntl.F_WRLCK, 0, 10, fcntl.F_OFD_SETLK)
        for fd in [two, other]:
            self.fails(errno.EAGAIN, lock, fd, fcntl.F_WRLCK, 5, 1, fcntl.F_OFD_SETLK)
        self.fails(errno.EAGAIN, lock, two, fcntl.F_WRLCK, 5, 1)
        # A close of another descriptor of the file leaves them; a duplicate is the same description.
        os.close(self.open("a", os.O_RDONLY))
        self.fails(errno.EAGAIN, lock, two, fcntl.F_WRLCK, 5, 1, fcntl.F_OFD_SETLK)
        duplicate = os.dup(one)
        self.fds.append(duplicate)
        os.close(one)
        self.fails(errno.EAGAIN, lock, two, fcntl.F_WRLCK, 5, 1, fcntl.F_OFD_SETLK)
        os.close(duplicate)
        lock(two, fcntl.F_WRLCK, 5, 1, fcntl.F_OFD_SETLK)

    def test_a_description_that_a_child_has_too_keeps_its_lock(self):
        self.put("a", b"x" * 100)
        one, two = self.open("a"), self.open("a")
        lock(one, fcntl.F_WRLCK, 0, 10, fcntl.F_OFD_SETLK)
        child = subprocess.Popen(["sleep", "100"], pass_fds=[one])
        try:
            os.close(one)
            self.fails(errno.EAGAIN, lock, two, fcntl.F_WRLCK, 5, 1, fcntl.F_OFD_SETLK)
        finally:
            child.kill()
            child.wait()
        self.wait_until("the lock is free", lambda: self.is_free(two))

    def is_free(self, fd):
        try:
            lock(fd, fcntl.F_WRLCK, 5, 1, fcntl.F_OFD_SETLK)
            return True
        except OSError as error:
            self.assertEqual(error.errno, errno.EAGAIN)
            return False

    def test_the_close_of_a_description_wakes_who_waits_for_its_lock(self):
        self.put("a", b"x" * 100)
        one, waiter = self.open("a"), Program(self)
        lock(one, fcntl.F_WRLCK, 0, 0, fcntl.F_OFD_SETLK)
        waiter.run(f"files.update(f=os.open({os.path.join(self.there, 'a')!r}, os.O_RDWR))")
        waiter.start(f"lock(files['f'], {fcntl.F_WRLCK}, 0, 0, {fcntl.F_OFD_SETLKW})")
        time.sleep(0.1)
        os.close(one)
        waiter.answer()

    def test_flocks_belong_to_descriptions_and_convert(self):
        self.put("a")
        one, two = self.open("a"), self.open("a")
        there = self.open(os.path.join(self.there, "a"))
        fcntl.flock(one, fcntl.LOCK_SH)
        fcntl.flock(there, fcntl.LOCK_SH | fcntl.LOCK_NB)
        self.fails(errno.EAGAIN, fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(there, fcntl.LOCK_UN)
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.fails(errno.EAGAIN, fcntl.flock, there, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # Independent of record locks.
        lock(two, fcntl.F_WRLCK)

    def test_a_lock_is_free_when_the_close_has_returned(self):
        self.put("a")
        for number in range(100):
            one = os.open(self.at("a"), os.O_RDWR)
            if number % 2:
                fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                lock(one, fcntl.F_WRLCK, 0, 0, fcntl.F_OFD_SETLK)
            os.close(one)

    def test_a_signal_ends_the_wait(self):
        path = self.put("a")
        fcntl.flock(self.open("a"), fcntl.LOCK_EX)
        source = f"import fcntl,os; fcntl.flock(os.open({os.path.join(self.there, 'a')!r}, os.O_RDWR), fcntl.LOCK_EX)"
        child = subprocess.Popen([sys.executable, "-c", source])
        time.sleep(0.5)
        child.send_signal(signal.SIGKILL)
        self.assertEqual(child.wait(PATIENCE), -signal.SIGKILL)


class Stacked(Case):
    def mount_overlay(self, lower, upper, work):
        merged = self.outside("merged")
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        mounted = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], capture_output=True, text=True)
        if mounted.returncode == 0:
            self.addCleanup(lambda: subprocess.run(["umount", "-l", merged], check=True))
        return merged, mounted

    def outside(self, name):
        path = tempfile.mkdtemp(prefix=f"curvine-{name}-", dir="/dev/shm")
        self.addCleanup(lambda: shutil.rmtree(path, ignore_errors=True))
        return path

    def test_overlayfs_takes_a_directory_as_its_lower_one(self):
        os.makedirs(self.at("dir/sub"))
        self.put("dir/file", b"lower")
        other = self.outside("upper")
        os.mkdir(other + "/upper")
        os.mkdir(other + "/work")
        merged, mounted = self.mount_overlay(self.dir, other + "/upper", other + "/work")
        self.assertEqual(mounted.returncode, 0, mounted.stderr)
        with open(merged + "/dir/file", "ab") as file:
            file.write(b" and upper")
        self.assertEqual((self.get(merged + "/dir/file"), self.get("dir/file")), (b"lower and upper", b"lower"))
        os.rmdir(merged + "/dir/sub")
        self.assertEqual(os.listdir(merged + "/dir"), ["file"])

    def test_overlayfs_takes_a_directory_as_its_upper_one(self):
        lower = self.outside("lower")
        os.mkdir(lower + "/dir")
        for name in ["dir/a", "dir/b", "c"]:
            with open(os.path.join(lower, name), "w") as file:
                file.write(name)
        os.mkdir(self.at("upper"))
        os.mkdir(self.at("work"))
        merged, mounted = self.mount_overlay(lower, self.at("upper"), self.at("work"))
        self.assertEqual(mounted.returncode, 0, mounted.stderr)
        os.unlink(merged + "/dir/a")
        os.rename(merged + "/c", merged + "/dir/c")
        with open(merged + "/dir/b", "a") as file:
            file.write(" more")
        os.mkdir(merged + "/new")
        self.assertEqual(sorted(os.listdir(merged)), ["dir", "new"])
        self.assertEqual(sorted(os.listdir(merged + "/dir")), ["b", "c"])
        self.assertEqual((self.get(merged + "/dir/b"), self.get(merged + "/dir/c")), (b"dir/b more", b"c"))
        self.assertTrue(stat.S_ISCHR(os.lstat(self.at("upper/c")).st_mode), "a whiteout")
        shutil.rmtree(merged + "/dir")
        self.assertEqual(os.listdir(merged), ["new"])

    def test_a_bind_mount_is_the_same_directory(self):
        self.put("a", b"data")
        target = self.outside("bind")
        subprocess.run(["mount", "--bind", self.dir, target], check=True)
        self.addCleanup(lambda: subprocess.run(["umount", target], check=True))
        self.assertEqual(self.get(target + "/a"), b"data")


if __name__ == "__main__":
    HERE, THERE = os.path.realpath(sys.argv[1]), os.path.realpath(sys.argv[2])
    os.umask(0o022)
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
