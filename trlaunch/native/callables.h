/* What is called: the method Kernel.launch, and a kernel bound to a grid. */
#ifndef TRLAUNCH_CALLABLES_H
#define TRLAUNCH_CALLABLES_H

#include "launch.h"

static int read_size(PyObject *value, unsigned *out) {
    int64_t number;
    if (!small(value, &number)) {
        int overflow;
        if (!PyLong_CheckExact(value)) return 0;
        number = PyLong_AsLongAndOverflow(value, &overflow);
        if (overflow) return 0;
    }
    if (number < 1 || number > 0x7FFFFFFF) return 0; /* an empty grid is not launched */
    *out = (unsigned)number;
    return 1;
}

static int read_grid(PyObject *grid, unsigned *out) {
    out[0] = out[1] = out[2] = 1;
    if (PyLong_CheckExact(grid)) return read_size(grid, out);
    if (!PyTuple_CheckExact(grid) && !PyList_CheckExact(grid)) return 0;
    Py_ssize_t axes = PySequence_Fast_GET_SIZE(grid);
    if (axes < 1 || axes > 3) return 0;
    for (Py_ssize_t i = 0; i < axes; i++) if (!read_size(PySequence_Fast_GET_ITEM(grid, i), &out[i])) return 0;
    return 1;
}

static int read_stream(PyObject *stream, Call *call) {
    if (stream == Py_None) return 1;
    PyObject *number = PyLong_CheckExact(stream) ? Py_NewRef(stream)
        : stream_handle ? PyObject_CallOneArg(stream_handle, stream) : NULL;
    call->stream = number ? PyLong_AsUnsignedLongLong(number) : 0;
    Py_XDECREF(number);
    if (!number || PyErr_Occurred()) return unusual();
    return call->has_stream = 1;
}

/* Read stream and device; names that are nothing else are then forgotten. */
static APART int read_settings(Call *call) {
    Py_ssize_t count = PyTuple_GET_SIZE(call->names), settings = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *name = PyTuple_GET_ITEM(call->names, i);
        if (same_name(s_stream, name)) {
            if (!read_stream(call->named[i], call)) return 0;
            settings++;
        } else if (same_name(s_device, name)) {
            if (call->named[i] != Py_None) call->device = call->named[i];
            settings++;
        }
    }
    if (settings == count) call->names = NULL;
    return 1;
}

/* ---- Kernel.launch ------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *wrapped;
} Method;

/* Whether an object has its plans in a slot; the type of the last one that has is known without looking at its bases. */
static inline int is_launched(PyObject *object) {
    if (Py_TYPE(object) == known.last_launched) return 1;
    if (!known.launched || !PyObject_TypeCheck(object, known.launched)) return 0;
    keep_type(&known.last_launched, (PyObject *)Py_TYPE(object));
    return 1;
}

static HOT PyObject *method_call(Method *self, PyObject *const *args, size_t flags, PyObject *names) {
    Py_ssize_t count = PyVectorcall_NARGS(flags);
    if (count >= 2 && is_launched(args[0])) { /* the kernel and the grid */
        PyObject *launches = slot_of(args[0], known.launched_offset);
        if (launches && Py_TYPE(launches) == &Launches_Type && ((Launches *)launches)->last) {
            Call call = {.args = args + 2, .count = count - 2, .named = args + count, .names = names};
            int found = UNUSUAL;
            Py_INCREF(launches);
            if (read_grid(args[1], call.programs) && (!names || read_settings(&call)))
                found = launch((Launches *)launches, &call);
            Py_DECREF(launches);
            if (found == DONE) Py_RETURN_NONE;
            if (found == FAILED) return NULL;
        }
    }
    return PyObject_Vectorcall(self->wrapped, args, flags, names);
}

static PyObject *method_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    PyObject *wrapped;
    static char *names[] = {"function", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O", names, &wrapped)) return NULL;
    Method *self = (Method *)type->tp_alloc(type, 0);
    if (self) {
        self->vectorcall = (vectorcallfunc)method_call;
        self->wrapped = Py_NewRef(wrapped);
    }
    return (PyObject *)self;
}

static int method_traverse(Method *self, visitproc visit, void *arg) {
    Py_VISIT(self->wrapped);
    return 0;
}

static int method_clear(Method *self) {
    Py_CLEAR(self->wrapped);
    return 0;
}

static void method_dealloc(Method *self) {
    PyObject_GC_UnTrack(self);
    method_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *method_get(PyObject *self, PyObject *owner, PyObject *type) {
    (void)type;
    return owner && owner != Py_None ? PyMethod_New(self, owner) : Py_NewRef(self);
}

/* Name, docstring, annotations are the function's. */
static PyObject *method_attribute(Method *self, PyObject *name) {
    static const char *const own[] = {"__class__", "__call__", "__get__", NULL};
    for (int i = 0; own[i]; i++)
        if (PyUnicode_CompareWithASCIIString(name, own[i]) == 0) return PyObject_GenericGetAttr((PyObject *)self, name);
    if (PyUnicode_CompareWithASCIIString(name, "__wrapped__") == 0) return Py_NewRef(self->wrapped);
    return PyObject_GetAttr(self->wrapped, name);
}

static PyTypeObject Method_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "trlaunch._launcher.Method",
    .tp_doc = "A method that launches natively, and calls the function it was made from where it cannot.",
    .tp_basicsize = sizeof(Method),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR,
    .tp_vectorcall_offset = offsetof(Method, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_new = method_new,
    .tp_dealloc = (destructor)method_dealloc,
    .tp_traverse = (traverseproc)method_traverse,
    .tp_clear = (inquiry)method_clear,
    .tp_descr_get = method_get,
    .tp_getattro = (getattrofunc)method_attribute,
};

/* ---- a kernel bound to a grid -------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *launches, *slow, *device;
    Call call;
    int usual;
} Bound;

/* Whether what was bound is given again: the Python path says so. */
static APART int has_settings(PyObject *names) {
    int settings = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++) settings |= is_setting(PyTuple_GET_ITEM(names, i));
    return settings;
}

static HOT PyObject *bound_call(Bound *self, PyObject *const *args, size_t flags, PyObject *names) {
    if (self->usual && ((Launches *)self->launches)->last) {
        Call call = self->call;
        call.args = args;
        call.count = PyVectorcall_NARGS(flags);
        call.named = args + call.count;
        call.names = names;
        int found = names && has_settings(names) ? UNUSUAL : launch((Launches *)self->launches, &call);
        if (found == FAILED) return NULL;
        if (found == DONE) Py_RETURN_NONE;
    }
    return PyObject_Vectorcall(self->slow, args, flags, names);
}

static int bound_traverse(Bound *self, visitproc visit, void *arg) {
    Py_VISIT(self->launches);
    Py_VISIT(self->slow);
    Py_VISIT(self->device);
    return 0;
}

static int bound_clear(Bound *self) {
    self->usual = 0;
    Py_CLEAR(self->launches);
    Py_CLEAR(self->slow);
    Py_CLEAR(self->device);
    return 0;
}

static void bound_dealloc(Bound *self) {
    PyObject_GC_UnTrack(self);
    bound_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *bound_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *names[] = {"launches", "slow", "grid", "stream", "device", NULL};
    PyObject *launches, *slow, *grid, *stream, *device;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!OOOO", names, &Launches_Type, &launches, &slow, &grid, &stream,
                                     &device))
        return NULL;
    Bound *self = (Bound *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->vectorcall = (vectorcallfunc)bound_call;
    self->launches = Py_NewRef(launches);
    self->slow = Py_NewRef(slow);
    self->device = Py_NewRef(device);
    self->call.device = device == Py_None ? NULL : device;
    self->usual = read_grid(grid, self->call.programs) && read_stream(stream, &self->call);
    return (PyObject *)self;
}

static PyTypeObject Bound_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "trlaunch._launcher.Bound",
    .tp_doc = "A kernel with grid, stream and device settled.",
    .tp_basicsize = sizeof(Bound),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_vectorcall_offset = offsetof(Bound, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_new = bound_new,
    .tp_dealloc = (destructor)bound_dealloc,
    .tp_traverse = (traverseproc)bound_traverse,
    .tp_clear = (inquiry)bound_clear,
};

#endif
