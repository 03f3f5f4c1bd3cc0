/* The interpreter inside the launcher: CPython's core initialised in this process, our modules from one image file.

   Where a start goes (best of 300, ms of wall time, idle 2-core virtual machine, Debian 12, CPython 3.11; /bin/true 0.5):
     python3 -I -S -c pass                          6.1
     the same, leaving by _exit                     5.0   no finalisation
     libpython linked in, full initialisation       5.2   the same work: getpath, encodings from disk, three stdio objects
     core initialisation only (_init_main = 0)      2.8   none of those; posix, sys and the frozen importer are there
     fewer built-in modules linked                  2.65  no libexpat, no libz
     no interning of deep-frozen modules            2.0   180 page faults fewer: those modules are not used here
   Shared libpython costs 0.3 more than linked; prefaulting .data made it slower.

   The core-only state is a private interface (PEP 587, "Multi-Phase Initialization Private Provisional API"), so:
   - it is built only when the build links and passes its own test (setup.py), and any doubt leads back to execve;
   - a module that the image or the core does not have makes cli/embed.py call complete(), which finishes the
     initialisation in place (_Py_InitializeMain), after which everything can be imported;
   - the image also holds `encodings`: the first error handler looked up imports it, and it must not complete midway;
   - verbs outside the fast set replace this process by the plain interpreter at once.

   The image (tools/image.py) holds marshalled code, an index sorted by name, and each source's size, time and hash. A
   module is taken from it only when its source still has that size and time, or that hash: nothing stale is run.
   Without an image that can be used, the interpreter is initialised whole and imports from the sources: what it lacks
   then is told in one line, where the plain interpreter has many of its own. */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <marshal.h>

#include "launcher.h"
#include "launcher_embed.h"

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BOOT "pyruntime.cli.embed"

/* Little-endian throughout; offsets are from the file's start. */
struct image_head {
    char magic[8];      /* "PYRIMG1\n" */
    uint32_t pyc_magic; /* of the bytecode */
    uint32_t count;
};

struct image_entry {
    uint32_t name, name_size; /* "pyruntime.record" */
    uint32_t path, path_size; /* "pyruntime/record.py", below the site, or absolute; NUL after it */
    uint32_t code, code_size;
    uint32_t source_size, package;
    uint64_t source_mtime_ns, source_hash;
};

/* Without it the _signal module cannot be imported in the core-only state. 0: installs no handler. */
int _PySignal_Init(int install_signal_handlers);

static const char *image;
static size_t image_size;
static const struct place *here;
static int word_count;
static char **words_given;

static int within(uint32_t offset, uint32_t size)
{
    return (uint64_t)offset + size <= image_size;
}

/* FNV-1a over 8 bytes at a time, the tail byte-wise; tools/image.py computes the same. */
static uint64_t hash_bytes(const unsigned char *data, size_t size)
{
    uint64_t hash = 0xcbf29ce484222325ULL, word;

    for (; size >= 8; data += 8, size -= 8) {
        memcpy(&word, data, 8);
        hash = (hash ^ word) * 0x100000001b3ULL;
        hash ^= hash >> 32;
    }
    for (; size; data++, size--)
        hash = (hash ^ *data) * 0x100000001b3ULL;
    return hash;
}

/* Whether the source at PATH is what the entry was compiled from. */
static int is_fresh(const struct image_entry *entry, const char *path)
{
    struct stat st;
    int fd, same = 0;
    void *data;

    if (stat(path, &st) < 0 || (uint64_t)st.st_size != entry->source_size)
        return 0;
    if ((uint64_t)st.st_mtim.tv_sec * 1000000000U + (uint64_t)st.st_mtim.tv_nsec == entry->source_mtime_ns)
        return 1;
    if (st.st_size == 0)
        return 1;
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    close(fd);
    if (data == MAP_FAILED)
        return 0;
    same = hash_bytes(data, (size_t)st.st_size) == entry->source_hash;
    munmap(data, (size_t)st.st_size);
    return same;
}

/* The source file of an entry: below the site, or absolute for a module of the standard library. */
static int source_of(const struct image_entry *entry, char *path)
{
    const char *text = image + entry->path;
    int length = snprintf(path, PATH_MAX, "%s%s%s", text[0] == '/' ? "" : here->site, text[0] == '/' ? "" : "/", text);

    return length < 0 || length >= PATH_MAX ? -1 : 0;
}

static const struct image_entry *entry_of(const char *name)
{
    const struct image_head *head = (const void *)image;
    const struct image_entry *entries = (const void *)(image + sizeof(*head)), *entry;
    size_t low = 0, high = head->count, size = strlen(name);

    while (low < high) {
        size_t middle = (low + high) / 2;
        int order;

        entry = &entries[middle];
        if (!within(entry->name, entry->name_size) || !within(entry->path, entry->path_size + 1) ||
            !within(entry->code, entry->code_size))
            return NULL;
        order = memcmp(name, image + entry->name, size < entry->name_size ? size : entry->name_size);
        if (order == 0 && size == entry->name_size)
            return entry;
        if (order < 0 || (order == 0 && size < entry->name_size))
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* load(name) -> (code, path, is_package), or None when the image has no fresh module of that name. */
static PyObject *py_load(PyObject *self, PyObject *arg)
{
    const char *name = PyUnicode_AsUTF8(arg);
    const struct image_entry *entry = name && (image || map_image(here)) ? entry_of(name) : NULL;
    char path[PATH_MAX];
    PyObject *code;

    (void)self;
    if (!name)
        return NULL;
    if (!entry || source_of(entry, path) < 0 || !is_fresh(entry, path))
        Py_RETURN_NONE;
    code = PyMarshal_ReadObjectFromString(image + entry->code, entry->code_size);
    if (!code)
        return NULL;
    return Py_BuildValue("(NNi)", code, PyUnicode_DecodeFSDefault(path), (int)entry->package);
}

/* load_set(verb) -> ((name, is_package, code), ...) in the order of loading, or None when there is no such set or one
   of its sources has changed. */
static PyObject *py_load_set(PyObject *self, PyObject *arg)
{
    const char *verb = PyUnicode_AsUTF8(arg);
    const struct image_entry *set, *entry;
    char text[PATH_MAX];
    PyObject *rows;

    (void)self;
    if (!verb)
        return NULL;
    if (snprintf(text, sizeof(text), "@%s", verb) >= (int)sizeof(text) || !(set = entry_of(text)))
        Py_RETURN_NONE;
    rows = PyMarshal_ReadObjectFromString(image + set->code, set->code_size);
    for (Py_ssize_t i = 0; rows && i < PyTuple_GET_SIZE(rows); i++) {
        const char *name = PyUnicode_AsUTF8(PyTuple_GET_ITEM(PyTuple_GET_ITEM(rows, i), 0));

        if (!name || !(entry = entry_of(name)) || source_of(entry, text) < 0 || !is_fresh(entry, text)) {
            Py_DECREF(rows);
            Py_RETURN_NONE;
        }
    }
    return rows;
}

/* complete(): finishes the interpreter's initialisation, after which all modules can be imported. */
static PyObject *py_complete(PyObject *self, PyObject *unused)
{
    PyStatus status = _Py_InitializeMain();

    (void)self;
    (void)unused;
    if (PyStatus_Exception(status)) {
        PyErr_SetString(PyExc_RuntimeError, status.err_msg ? status.err_msg : "cannot initialise the interpreter");
        return NULL;
    }
    Py_RETURN_NONE;
}

/* plain(): replaces this process by the plain interpreter with the same words; for verbs outside the fast set. */
static PyObject *py_plain(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    run_python(here, word_count, words_given);
}

IN_SNAPSHOT static PyMethodDef methods[] = {
    {"load", py_load, METH_O, "Code, path and kind of a module in the image, or None."},
    {"load_set", py_load_set, METH_O, "The modules of a fast verb, or None."},
    {"complete", py_complete, METH_NOARGS, "Finish the interpreter's initialisation."},
    {"plain", py_plain, METH_NOARGS, "Become the plain interpreter, with the same words."},
    {NULL, NULL, 0, NULL},
};

IN_SNAPSHOT static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_pyruntime_launcher", NULL, -1, methods, NULL, NULL, NULL, NULL};

static PyObject *init_module(void)
{
    return PyModule_Create(&module);
}

#ifdef WITHOUT_INTERNING
/* The linker puts this in place of the interpreter's own (--wrap). Names in deep-frozen code objects then are compared
   by value where they would be by address; only importlib's bootstrap is run from there before complete(). */
int __wrap__Py_Deepfreeze_Init(void);
int __wrap__Py_Deepfreeze_Init(void)
{
    return 0;
}
#endif

#ifdef OWN_CRC32
/* zlib's crc32 for the binascii module, in place of loading libz at every start. */
unsigned long crc32(unsigned long crc, const unsigned char *data, unsigned int size);
unsigned long crc32(unsigned long crc, const unsigned char *data, unsigned int size)
{
    static const uint32_t table[16] = {/* of the polynomial 0xedb88320, four bits at a time */
                                       0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
                                       0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
                                       0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    uint32_t value = ~(uint32_t)crc;

    for (unsigned int i = 0; i < size; i++) {
        value = table[(value ^ data[i]) & 15] ^ (value >> 4);
        value = table[(value ^ (data[i] >> 4)) & 15] ^ (value >> 4);
    }
    return (uint32_t)~value;
}
#endif

/* The image, mapped and with a plausible head; 0 without one. */
int map_image(const struct place *place)
{
    char path[PATH_MAX];
    const struct image_head *head;
    struct stat st;
    void *data;
    int fd;

    if (snprintf(path, sizeof(path), "%s/" IMAGE, place->site) >= (int)sizeof(path))
        return 0;
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    if (fstat(fd, &st) < 0 || (size_t)st.st_size < sizeof(*head)) {
        close(fd);
        return 0;
    }
    data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (data == MAP_FAILED)
        return 0;
    image = data;
    image_size = (size_t)st.st_size;
    head = data;
    return memcmp(head->magic, "PYRIMG1\n", 8) == 0 && head->pyc_magic == PYC_MAGIC && head->count < 10000 &&
           sizeof(*head) + head->count * sizeof(struct image_entry) <= image_size;
}

static int set_text(PyConfig *config, wchar_t **field, const char *text)
{
    return PyStatus_Exception(PyConfig_SetBytesString(config, field, text)) ? -1 : 0;
}

static int add_path(PyConfig *config, const char *path)
{
    wchar_t *wide = Py_DecodeLocale(path, NULL);
    int failed = !wide || PyStatus_Exception(PyWideStringList_Append(&config->module_search_paths, wide));

    PyMem_RawFree(wide);
    return failed ? -1 : 0;
}

/* Isolated, UTF-8, no site, no handlers, every path given, so that nothing is looked up; stops after the core. */
static int configure(PyConfig *config, const struct place *place)
{
    int failed = 0;

    config->site_import = 0;
    config->write_bytecode = 0;
    config->install_signal_handlers = 0;
    config->parse_argv = 0;
    config->pathconfig_warnings = 0;
    config->_init_main = 0;
    config->module_search_paths_set = 1;
    failed |= set_text(config, &config->program_name, BUILD_PYTHON);
    failed |= set_text(config, &config->executable, BUILD_PYTHON);
    failed |= set_text(config, &config->base_executable, BUILD_PYTHON);
    failed |= set_text(config, &config->prefix, BUILD_PREFIX);
    failed |= set_text(config, &config->base_prefix, BUILD_PREFIX);
    failed |= set_text(config, &config->exec_prefix, BUILD_PREFIX);
    failed |= set_text(config, &config->base_exec_prefix, BUILD_PREFIX);
    failed |= set_text(config, &config->stdlib_dir, BUILD_STDLIB);
    failed |= set_text(config, &config->filesystem_encoding, "utf-8");
    failed |= set_text(config, &config->filesystem_errors, "surrogateescape");
    failed |= set_text(config, &config->stdio_encoding, "utf-8");
    failed |= set_text(config, &config->stdio_errors, "surrogateescape");
    failed |= add_path(config, BUILD_STDLIB);
    failed |= add_path(config, BUILD_STDLIB "/lib-dynload");
    for (int i = 0; i < place->dir_count; i++)
        failed |= add_path(config, place->dirs[i]);
    return failed;
}

int initialise(const struct place *place)
{
    PyPreConfig pre;
    PyConfig config;
    int failed;

    PyPreConfig_InitIsolatedConfig(&pre);
    pre.utf8_mode = 1;
    pre.configure_locale = 0;
    if (PyStatus_Exception(Py_PreInitialize(&pre)) || PyImport_AppendInittab("_pyruntime_launcher", init_module) < 0 ||
        PyImport_AppendInittab("_pyruntime_native", init_native) < 0)
        return -1;
    PyConfig_InitIsolatedConfig(&config);
    failed =
        configure(&config, place) < 0 || PyStatus_Exception(Py_InitializeFromConfig(&config)) || _PySignal_Init(0) < 0;
    PyConfig_Clear(&config);
    return failed ? -1 : 0;
}

PyObject *list_of(int count, char *const *words, const char *(*at)(int))
{
    PyObject *list = PyList_New(count);

    for (int i = 0; list && i < count; i++) {
        const char *text = words ? words[i] : at(i);
        PyObject *item = PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "surrogateescape");

        if (!item)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, item);
    }
    return list;
}

static const char *dir_at(int i)
{
    return here->dirs[i];
}

PyObject *run_boot_code(int argc, char **argv, int making)
{
    const struct image_entry *entry = entry_of(BOOT);
    PyObject *code = entry ? PyMarshal_ReadObjectFromString(image + entry->code, entry->code_size) : NULL;
    PyObject *globals = PyDict_New(), *result = NULL;
    PyObject *words = list_of(argc, argv, NULL), *dirs = list_of(here->dir_count, NULL, dir_at);
    PyObject *dynload = PyUnicode_FromString(BUILD_STDLIB "/lib-dynload");

    PyGC_Disable(); /* a call of a fast verb is short and makes few cycles; collecting costs it a tenth of a ms */
    if (code && globals && words && dirs && dynload &&
        PyDict_SetItemString(globals, "__builtins__", PyEval_GetBuiltins()) == 0 &&
        PyDict_SetItemString(globals, "argv", words) == 0 && PyDict_SetItemString(globals, "dirs", dirs) == 0 &&
        PyDict_SetItemString(globals, "dynload", dynload) == 0 &&
        PyDict_SetItemString(globals, "making", making ? Py_True : Py_False) == 0)
        result = PyEval_EvalCode(code, globals, globals);
    if (!result)
        PyErr_Print();
    return result ? globals : NULL;
}

/* Whether the image has what starts everything else, and that is up to date. */
static int has_image(const struct place *place)
{
    static const char *const needed[] = {BOOT, "encodings"};
    const struct image_entry *entry;
    char path[PATH_MAX];

    if (!map_image(place))
        return 0;
    for (size_t i = 0; i < 2; i++)
        if (!(entry = entry_of(needed[i])) || source_of(entry, path) < 0 || !is_fresh(entry, path))
            return 0;
    return 1;
}

/* Puts the null device in the place of stderr. The number under which stderr is kept meanwhile, -1 when it stayed. */
static int hush(void)
{
    int kept = fcntl(2, F_DUPFD_CLOEXEC, 3), null = open("/dev/null", O_WRONLY | O_CLOEXEC);

    if (kept >= 0 && (null < 0 || dup2(null, 2) < 0)) {
        close(kept);
        kept = -1;
    }
    if (null >= 0)
        close(null);
    return kept;
}

/* The whole interpreter, with modules from their sources. A start that fails tells much of itself before it returns with
   its reason, which alone is told. Does not return. */
static _Noreturn void run_whole(int argc, char **argv)
{
    int kept = hush();
    PyStatus status = _Py_InitializeMain();
    PyObject *words = NULL;

    if (kept >= 0 && dup2(kept, 2) >= 0)
        close(kept);
    if (!PyStatus_Exception(status))
        words = list_of(argc, argv, NULL);
    if (!words || PySys_SetObject("argv", words) < 0) {
        fprintf(stderr, "pyruntime: the interpreter cannot start: %s\n", status.err_msg ? status.err_msg : "out of memory");
        fprintf(stderr, "  hint: the installation of Python is damaged or closed to this user, or memory or descriptors ran out\n");
        _exit(1);
    }
    /* The module of that name tells the command line that other verbs than the fast ones want the plain interpreter. */
    _exit(PyRun_SimpleString("import sys, _pyruntime_launcher\n" START_TEXT) < 0); /* a command leaves by itself */
}

void run_embedded(const struct place *place, int argc, char **argv)
{
    int has;

    for (int i = 1; i < argc; i++) /* the image has no line numbers for a traceback */
        if (strncmp(argv[i], "--debug", 7) == 0 || strncmp(argv[i], "-debug", 6) == 0)
            return;
    here = place;
    word_count = argc;
    words_given = argv;
    if (strcmp(place->version, BUILD_VERSION) != 0 || argc < 1)
        return;
#ifdef SNAPSHOT
    run_snapshot(place, argc, argv);
#endif
    has = has_image(place);
    if (initialise(place) < 0)
        return;
    if (!has)
        run_whole(argc, argv);
    run_boot_code(argc, argv, 0);
    _exit(1); /* the boot code leaves by _exit itself */
}
