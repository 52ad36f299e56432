/* A disk that forgets, for netns-tests/faults.rs: stands between a program and the C library (LD_PRELOAD), and keeps beside
 * the files under DISK_ROOT what a power loss would leave of them, under DISK_SHADOW:
 *
 *   files/INODE     the durable bytes of a file: what an fsync or fdatasync of it has carried over
 *   dirs/INODE/NAME the durable names in a directory: what an fsync of the directory has carried over; a hard link to the
 *                   file's bytes, or a symbolic link whose target is the inode of the directory
 *   control         numbers, shared with the harness: what shall happen, and what has happened
 *
 * The model is POSIX, read strictly: an fsync of a file says nothing about its name, an fsync of a directory nothing about
 * the bytes of its files, and neither anything about the directory above. What differs between the live files and the
 * durable ones may be lost, kept, or torn, which is up to who makes the image. After an fsync that failed, what it should
 * have written is not durable, nor does a later fsync try again: the kernel has forgotten that it is dirty.
 * `-shm` files of SQLite are never durable. The live files are to be on a tmpfs, which gives no inode number twice.
 * Not known here: what changes a file without write or truncate (mmap, copy_file_range and sendfile, which are refused). */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum class { WRITE = 1, SYNC, NAME, SEND, ANY };
enum action { GO_ON, DIE_BEFORE, DIE_AFTER, DIE_HALFWAY, FAIL };

/* The same layout is in netns-tests/faults/disk.rs. */
struct control {
    volatile uint64_t armed, action, countdown; /* at the countdown'th event of the class `armed` happens `action`, once */
    volatile uint64_t full;                     /* what needs room on the disk fails */
    volatile uint64_t lies;                     /* fsync says yes and does nothing */
    volatile uint64_t fired;                    /* how often an action has happened */
    volatile uint64_t events[6];                /* by class */
    volatile uint64_t room;                     /* what a full disk has left, as files shrink or go */
};

#define SPANS_MAX 64
#define BUCKETS 4096

/* A file with what was written since the last fsync of it. */
struct file {
    struct file *next;
    ino_t inode;
    int spans;
    struct { off_t from, to; } span[SPANS_MAX];
};

static struct file *files[BUCKETS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct control *control;
static char root[PATH_MAX], shadow[PATH_MAX - 300];
static size_t root_bytes;
static dev_t device;

__attribute__((constructor)) static void begin(void) {
    const char *live = getenv("DISK_ROOT"), *durable = getenv("DISK_SHADOW");
    struct stat about;
    if (!live || !durable || !realpath(live, root) || stat(root, &about) || strlen(durable) >= sizeof shadow)
        return;
    device = about.st_dev;
    root_bytes = strlen(root);
    strcpy(shadow, durable);
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/control", shadow);
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    void *shared = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED)
        abort();
    syscall(SYS_close, fd);
    control = shared;
}

static long fails(int error) {
    errno = error;
    return -1;
}

/* ---- what happens when ---- */

static enum action event(enum class class) {
    control->events[class]++;
    if ((control->armed != class && control->armed != ANY) || --control->countdown)
        return GO_ON;
    if (control->action == FAIL && class != SYNC && class != WRITE) {
        control->countdown = 1;
        return GO_ON;
    }
    control->armed = 0;
    return control->action;
}

/* Dies with the lock held, so that no other thread gets further than this event. */
static void die(void) {
    control->fired++;
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;)
        pause();
}

/* Tells whether a file may grow by so much; a full disk then has so much less. */
static int has_room(off_t growth) {
    if (!control->full || growth <= 0)
        return 1;
    if ((uint64_t)growth > control->room)
        return 0;
    control->room -= growth;
    return 1;
}

/* ---- which files ---- */

static int is_inside(const char *path) {
    return control && path && !strncmp(path, root, root_bytes) && (path[root_bytes] == '/' || !path[root_bytes]);
}

static int is_never_durable(const char *name) {
    size_t bytes = strlen(name);
    return bytes > 4 && !strcmp(name + bytes - 4, "-shm");
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t bytes = readlink(link, path, PATH_MAX - 1);
    path[bytes > 0 ? bytes : 0] = 0;
    return bytes > 0 && is_inside(path);
}

static struct file *find(ino_t inode) {
    struct file *file = files[inode % BUCKETS];
    while (file && file->inode != inode)
        file = file->next;
    return file;
}

static void note(struct file *file, off_t from, off_t to) {
    int at = 0;
    if (from >= to)
        return;
    while (at < file->spans && (to < file->span[at].from || from > file->span[at].to))
        at++;
    if (at == SPANS_MAX)
        for (at = 0; file->spans > 1; file->spans--) {
            int last = file->spans - 1;
            file->span[0].from = file->span[last].from < file->span[0].from ? file->span[last].from : file->span[0].from;
            file->span[0].to = file->span[last].to > file->span[0].to ? file->span[last].to : file->span[0].to;
        }
    if (at == file->spans) {
        file->spans++;
        file->span[at].from = from;
        file->span[at].to = to;
    }
    file->span[at].from = from < file->span[at].from ? from : file->span[at].from;
    file->span[at].to = to > file->span[at].to ? to : file->span[at].to;
}

/* Knows a file from now on; all of it may differ from what is durable. */
static void know(int fd) {
    char path[PATH_MAX];
    struct stat about;
    if (fstat(fd, &about) || !S_ISREG(about.st_mode) || find(about.st_ino) || !path_of(fd, path) || is_never_durable(path))
        return;
    struct file *file = calloc(1, sizeof *file);
    if (!file)
        abort();
    file->inode = about.st_ino;
    note(file, 0, about.st_size);
    file->next = files[about.st_ino % BUCKETS];
    files[about.st_ino % BUCKETS] = file;
}

static struct file *known(int fd, struct stat *about) {
    if (!control || fstat(fd, about) || !S_ISREG(about->st_mode) || about->st_dev != device)
        return NULL;
    pthread_mutex_lock(&lock);
    struct file *file = find(about->st_ino);
    if (!file)
        pthread_mutex_unlock(&lock);
    return file;
}

static int is_conversation(int fd) {
    int type = 0, domain = 0;
    socklen_t bytes = sizeof type;
    return control && !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &bytes) && type == SOCK_STREAM &&
           !getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &bytes) && domain != AF_UNIX;
}

/* ---- what becomes durable ---- */

static void carry_over(int fd, struct file *file, int spans) {
    char path[PATH_MAX], buffer[65536];
    struct stat about;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int live = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    snprintf(path, sizeof path, "%s/files/%ju", shadow, (uintmax_t)file->inode);
    int durable = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (live < 0 || durable < 0 || fstat(live, &about))
        abort();
    for (int at = 0; at < spans; at++)
        for (off_t from = file->span[at].from; from < file->span[at].to;) {
            size_t left = file->span[at].to - from, wanted = left < sizeof buffer ? left : sizeof buffer;
            ssize_t bytes = pread(live, buffer, wanted, from);
            if (bytes <= 0)
                break;
            if (syscall(SYS_pwrite64, durable, buffer, bytes, from) != bytes)
                abort();
            from += bytes;
        }
    if (spans == file->spans && syscall(SYS_ftruncate, durable, about.st_size))
        abort();
    syscall(SYS_close, live);
    syscall(SYS_close, durable);
}

/* Gives the durable directory the entry: the new one takes the place of the old one in one step. */
static void carry_name(const char *names, const char *live, const char *name) {
    char from[PATH_MAX], at[PATH_MAX], fresh[PATH_MAX], target[32] = "", old[32] = "";
    struct stat about, bytes, there;
    snprintf(from, sizeof from, "%s/%s", live, name);
    if (lstat(from, &about))
        return;
    snprintf(at, sizeof at, "%s/%s", names, name);
    snprintf(fresh, sizeof fresh, "%s/new", shadow);
    syscall(SYS_unlinkat, AT_FDCWD, fresh, 0);
    if (S_ISDIR(about.st_mode)) {
        snprintf(target, sizeof target, "%ju", (uintmax_t)about.st_ino);
        ssize_t read = readlink(at, old, sizeof old - 1);
        old[read > 0 ? read : 0] = 0;
        if (strcmp(old, target) && (symlink(target, fresh) || syscall(SYS_renameat2, AT_FDCWD, fresh, AT_FDCWD, at, 0)))
            abort();
    } else if (S_ISREG(about.st_mode) && !is_never_durable(name)) {
        snprintf(from, sizeof from, "%s/files/%ju", shadow, (uintmax_t)about.st_ino);
        int made = syscall(SYS_openat, AT_FDCWD, from, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (made < 0 || fstat(made, &bytes))
            abort();
        syscall(SYS_close, made);
        if (lstat(at, &there) || there.st_ino != bytes.st_ino)
            if (syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, fresh, 0) ||
                syscall(SYS_renameat2, AT_FDCWD, fresh, AT_FDCWD, at, 0))
                abort();
    }
}

static void carry_names(const char *live, ino_t inode) {
    char names[PATH_MAX - 260], path[PATH_MAX];
    struct stat there;
    snprintf(names, sizeof names, "%s/dirs/%ju", shadow, (uintmax_t)inode);
    syscall(SYS_mkdirat, AT_FDCWD, names, 0700);
    for (int gone = 0; gone < 2; gone++) {
        DIR *entries = opendir(gone ? names : live);
        struct dirent *entry;
        while (entries && (entry = readdir(entries))) {
            if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
                continue;
            if (!gone)
                carry_name(names, live, entry->d_name);
            snprintf(path, sizeof path, "%s/%s", live, entry->d_name);
            if (gone && lstat(path, &there)) {
                snprintf(path, sizeof path, "%s/%s", names, entry->d_name);
                syscall(SYS_unlinkat, AT_FDCWD, path, 0);
            }
        }
        if (entries)
            closedir(entries);
    }
}

static int synced(int fd, long number) {
    char path[PATH_MAX];
    struct stat about;
    if (!control || fstat(fd, &about) || !path_of(fd, path))
        return syscall(number, fd);
    pthread_mutex_lock(&lock);
    struct file *file = find(about.st_ino);
    enum action action = event(SYNC);
    if (action == DIE_BEFORE)
        die();
    if (action == DIE_HALFWAY && file)
        carry_over(fd, file, file->spans / 2);
    if (action == DIE_HALFWAY)
        die();
    if (action == FAIL) {
        control->fired++;
        if (file)
            file->spans = 0;
        pthread_mutex_unlock(&lock);
        return fails(EIO);
    }
    if (!control->lies && file) {
        carry_over(fd, file, file->spans);
        file->spans = 0;
    } else if (!control->lies && S_ISDIR(about.st_mode)) {
        carry_names(path, about.st_ino);
    }
    if (action == DIE_AFTER)
        die();
    pthread_mutex_unlock(&lock);
    return 0;
}

int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

/* ---- what writes and sends: all of it comes down to one vector ---- */

static ssize_t put(int fd, const struct iovec *parts, int count, off_t at) {
    return at < 0 ? syscall(SYS_writev, fd, parts, count) : syscall(SYS_pwritev, fd, parts, count, at, 0L);
}

/* Dies in the middle of the first part. */
static void put_half(int fd, const struct iovec *parts, off_t at) {
    struct iovec half = {parts->iov_base, parts->iov_len / 2};
    put(fd, &half, 1, at);
    die();
}

static ssize_t written(int fd, const struct iovec *parts, int count, off_t at) {
    struct stat about;
    struct file *file = known(fd, &about);
    int talks = !file && at < 0 && is_conversation(fd);
    if (!file && !talks)
        return put(fd, parts, count, at);
    if (talks)
        pthread_mutex_lock(&lock);
    enum action action = event(file ? WRITE : SEND);
    ssize_t bytes = 0;
    for (int part = 0; part < count; part++)
        bytes += parts[part].iov_len;
    off_t from = !file ? 0 : at >= 0 ? at : syscall(SYS_fcntl, fd, F_GETFL) & O_APPEND ? about.st_size : lseek(fd, 0, SEEK_CUR);
    if (action == DIE_BEFORE)
        die();
    if (action == DIE_HALFWAY && count)
        put_half(fd, parts, at);
    if (action == FAIL || (file && !has_room(from + bytes - about.st_size))) {
        control->fired += action == FAIL;
        pthread_mutex_unlock(&lock);
        return fails(action == FAIL ? EIO : ENOSPC);
    }
    bytes = put(fd, parts, count, at);
    int error = errno;
    if (file && bytes > 0)
        note(file, from < about.st_size ? from : about.st_size, from + bytes);
    if (action == DIE_AFTER)
        die();
    pthread_mutex_unlock(&lock);
    errno = error;
    return bytes;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    struct iovec part = {(void *)bytes, count};
    return written(fd, &part, 1, -1);
}
ssize_t writev(int fd, const struct iovec *parts, int count) { return written(fd, parts, count, -1); }
ssize_t pwrite64(int fd, const void *bytes, size_t count, off_t at) {
    struct iovec part = {(void *)bytes, count};
    return written(fd, &part, 1, at);
}
ssize_t pwrite(int, const void *, size_t, off_t) __attribute__((alias("pwrite64")));
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) { return written(fd, parts, count, at); }
ssize_t pwritev(int, const struct iovec *, int, off_t) __attribute__((alias("pwritev64")));

ssize_t sendto(int fd, const void *bytes, size_t count, int flags, const struct sockaddr *to, socklen_t to_bytes) {
    if (!is_conversation(fd))
        return syscall(SYS_sendto, fd, bytes, count, flags, to, to_bytes);
    pthread_mutex_lock(&lock);
    enum action action = event(SEND);
    if (action == DIE_BEFORE)
        die();
    ssize_t sent = syscall(SYS_sendto, fd, bytes, action == DIE_HALFWAY ? count / 2 : count, flags, to, to_bytes);
    if (action == DIE_HALFWAY || action == DIE_AFTER)
        die();
    pthread_mutex_unlock(&lock);
    return sent;
}
ssize_t send(int fd, const void *bytes, size_t count, int flags) { return sendto(fd, bytes, count, flags, NULL, 0); }

/* ---- what changes names and sizes ---- */

static int opened(int at, const char *path, int flags, mode_t mode) {
    if (!is_inside(path))
        return syscall(SYS_openat, at, path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat about;
    int makes = flags & O_CREAT && lstat(path, &about);
    enum action action = makes ? event(NAME) : GO_ON;
    if (action == DIE_BEFORE || action == DIE_HALFWAY)
        die();
    int fd = makes && control->full ? fails(ENOSPC) : syscall(SYS_openat, at, path, flags, mode);
    if (fd >= 0) {
        know(fd);
        struct file *file = flags & O_TRUNC && !makes ? find(about.st_ino) : NULL;
        if (file)
            note(file, 0, about.st_size);
    }
    if (action == DIE_AFTER)
        die();
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE(flags, mode)                                                                                                     \
    mode_t mode = 0;                                                                                                          \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                                                      \
        va_list arguments;                                                                                                    \
        va_start(arguments, flags);                                                                                           \
        mode = va_arg(arguments, int);                                                                                        \
        va_end(arguments);                                                                                                    \
    }

int open(const char *path, int flags, ...) {
    MODE(flags, mode)
    return opened(AT_FDCWD, path, flags, mode);
}
int open64(const char *, int, ...) __attribute__((alias("open")));
int openat(int at, const char *path, int flags, ...) {
    MODE(flags, mode)
    return opened(at, path, flags, mode);
}
int openat64(int, const char *, int, ...) __attribute__((alias("openat")));

int ftruncate64(int fd, off_t bytes) {
    struct stat about;
    struct file *file = known(fd, &about);
    if (!file)
        return syscall(SYS_ftruncate, fd, bytes);
    enum action action = event(WRITE);
    if (action == DIE_BEFORE || action == DIE_HALFWAY)
        die();
    int no_room = action != FAIL && !has_room(bytes - about.st_size);
    int result = action == FAIL || no_room ? fails(no_room ? ENOSPC : EIO) : syscall(SYS_ftruncate, fd, bytes);
    control->fired += action == FAIL;
    if (!result && control->full && bytes < about.st_size)
        control->room += about.st_size - bytes;
    if (!result && bytes < about.st_size)
        note(file, bytes, about.st_size);
    if (action == DIE_AFTER)
        die();
    pthread_mutex_unlock(&lock);
    return result;
}
int ftruncate(int, off_t) __attribute__((alias("ftruncate64")));

/* Sets room aside; what is never written is never durable either. */
int posix_fallocate64(int fd, off_t from, off_t bytes) {
    struct stat about;
    struct file *file = known(fd, &about);
    int may = !file || has_room(from + bytes - about.st_size);
    int error = !may ? ENOSPC : syscall(SYS_fallocate, fd, 0, from, bytes) ? errno : 0;
    if (file)
        pthread_mutex_unlock(&lock);
    return error;
}
int posix_fallocate(int, off_t, off_t) __attribute__((alias("posix_fallocate64")));

/* A change of a name that needs nothing but to be counted: an fsync of the directory looks at what is there. */
static int renamed(const char *path, int needs_room, long number, long first, long second, long third, long fourth) {
    if (!is_inside(path))
        return syscall(number, first, second, third, fourth, 0);
    pthread_mutex_lock(&lock);
    enum action action = event(NAME);
    if (action == DIE_BEFORE || action == DIE_HALFWAY)
        die();
    int result = needs_room && control->full ? fails(ENOSPC) : syscall(number, first, second, third, fourth, 0);
    if (action == DIE_AFTER)
        die();
    pthread_mutex_unlock(&lock);
    return result;
}

int rename(const char *from, const char *to) {
    return renamed(to, 0, SYS_renameat2, AT_FDCWD, (long)from, AT_FDCWD, (long)to);
}
int unlink(const char *path) {
    struct stat about;
    int gives = is_inside(path) && control->full && !lstat(path, &about) && S_ISREG(about.st_mode);
    int result = renamed(path, 0, SYS_unlinkat, AT_FDCWD, (long)path, 0, 0);
    if (gives && !result)
        control->room += about.st_size;
    return result;
}
int mkdir(const char *path, mode_t mode) { return renamed(path, 1, SYS_mkdirat, AT_FDCWD, (long)path, mode, 0); }

/* What would go past the eyes above; a program does without it. */
ssize_t copy_file_range(int from, off_t *from_at, int to, off_t *to_at, size_t bytes, unsigned flags) {
    (void)from, (void)from_at, (void)to, (void)to_at, (void)bytes, (void)flags;
    return fails(ENOSYS);
}
ssize_t sendfile64(int to, int from, off_t *at, size_t bytes) {
    (void)to, (void)from, (void)at, (void)bytes;
    return fails(ENOSYS);
}
ssize_t sendfile(int, int, off_t *, size_t) __attribute__((alias("sendfile64")));
