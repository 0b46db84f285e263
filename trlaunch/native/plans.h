/* The plans of a kernel. */
#ifndef TRLAUNCH_PLANS_H
#define TRLAUNCH_PLANS_H

#include "plan.h"

typedef struct {
    PyObject_HEAD
    Plan *last;
    int fixed; /* the kernel was given its device */
    int count;
    Plan *plans[MAX_PLANS];
    struct { PyObject *key; Plan *plan; } devices[MAX_DEVICES]; /* what device= was, by identity */
    int device_count, next_device;
} Launches;

static int launches_clear(Launches *self) {
    self->last = NULL;
    self->next_device = 0;
    while (self->count) {
        self->count--;
        Py_CLEAR(self->plans[self->count]);
    }
    while (self->device_count) {
        self->device_count--;
        Py_CLEAR(self->devices[self->device_count].key);
    }
    return 0;
}

static int launches_traverse(Launches *self, visitproc visit, void *arg) {
    for (int i = 0; i < self->count; i++) Py_VISIT(self->plans[i]);
    for (int i = 0; i < self->device_count; i++) Py_VISIT(self->devices[i].key);
    return 0;
}

static void launches_dealloc(Launches *self) {
    PyObject_GC_UnTrack(self);
    launches_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static int launches_init(Launches *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"fixed", NULL};
    return PyArg_ParseTupleAndKeywords(args, keywords, "p", names, &self->fixed) ? 0 : -1;
}

static PyObject *launches_add(Launches *self, PyObject *args) {
    Plan *plan;
    int usual;
    if (!PyArg_ParseTuple(args, "O!p", &Plan_Type, &plan, &usual)) return NULL;
    if (self->count < MAX_PLANS) {
        self->plans[self->count++] = (Plan *)Py_NewRef(plan);
        if (usual) self->last = plan;
    }
    Py_RETURN_NONE;
}

/* Launches with device= this very object go to the plan. */
static PyObject *launches_add_device(Launches *self, PyObject *args) {
    PyObject *key;
    Plan *plan;
    if (!PyArg_ParseTuple(args, "OO!", &key, &Plan_Type, &plan)) return NULL;
    int ours = 0;
    for (int i = 0; i < self->count; i++) ours |= self->plans[i] == plan;
    if (ours) {
        int at = self->next_device;
        PyObject *old = at < self->device_count ? self->devices[at].key : NULL;
        self->devices[at].key = Py_NewRef(key);
        self->devices[at].plan = plan;
        if (self->device_count < MAX_DEVICES) self->device_count++;
        self->next_device = (at + 1) % MAX_DEVICES;
        Py_XDECREF(old);
    }
    Py_RETURN_NONE;
}

/* While launches are hooked, bound callables find none; whoever empties this keeps the plans. */
static PyObject *launches_forget(Launches *self, PyObject *unused) {
    (void)unused;
    launches_clear(self);
    Py_RETURN_NONE;
}

static PyMethodDef launches_methods[] = {
    {"add", (PyCFunction)launches_add, METH_VARARGS, "add(plan, usual): of another device; for launches without device="},
    {"add_device", (PyCFunction)launches_add_device, METH_VARARGS, "Add an object that stands for a plan's device."},
    {"forget", (PyCFunction)launches_forget, METH_NOARGS, "Drop every plan."},
    {NULL, NULL, 0, NULL}};

static PyMemberDef launches_members[] = {{"fixed", T_INT, offsetof(Launches, fixed), READONLY, NULL}, {NULL}};

static PyTypeObject Launches_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "trlaunch._launcher.Launches",
    .tp_doc = "The plans of one kernel.",
    .tp_basicsize = sizeof(Launches),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)launches_init,
    .tp_dealloc = (destructor)launches_dealloc,
    .tp_traverse = (traverseproc)launches_traverse,
    .tp_clear = (inquiry)launches_clear,
    .tp_methods = launches_methods,
    .tp_members = launches_members,
};

#endif
