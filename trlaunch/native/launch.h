/* One launch. */
#ifndef TRLAUNCH_LAUNCH_H
#define TRLAUNCH_LAUNCH_H

#include "arguments.h"
#include "submit.h"

/* Everything but what is packed; `other` becomes the plan of the device that it is for, where that is ELSEWHERE. */
static int queue(Plan *plan, const Call *call, Packing *p, Plan **other, Launches *launches) {
    unsigned ctas[3];
    if (!count_ctas(plan, call->programs, ctas)) return UNUSUAL;
    if (plan->listed) {
        int i = 0;
        while (i < plan->grid_count && memcmp(plan->grids[i], ctas, sizeof ctas)) i++;
        if (i == plan->grid_count) return UNUSUAL;
    }
    unsigned long long before, id;
    int entered = 0, status = identify(plan, &before);
    if (status) return fail(plan, "identify", status, ctas, call->stream);
    void *function = before ? entry_of(plan, before) : NULL;
    if (p->choosing && !p->located) { /* the thread's own device it is then */
        for (int i = 0; i < launches->count && !function; i++)
            if (before ? entry_of(launches->plans[i], before) != NULL : launches->plans[i]->ordinal == 0)
                *other = launches->plans[i];
        if (*other && *other != plan) return ELSEWHERE;
        if (!function && !*other) return UNUSUAL;
    }
    if (!function) {
        int i = 0;
        while (i < plan->stranger_count && plan->strangers[i] != before) i++;
        if (i == plan->stranger_count) return UNUSUAL;
        if ((status = enter(plan))) return fail(plan, "enter", status, ctas, call->stream);
        entered = 1;
        status = identify(plan, &id);
        if (status || !(function = entry_of(plan, id))) {
            int leaving = leave(plan, entered, before);
            if (status) return fail(plan, "identify", status, ctas, call->stream);
            return leaving ? fail(plan, "leave", leaving, ctas, call->stream) : UNUSUAL;
        }
    }
    uint64_t stream = call->stream;
    int told = call->has_stream || !p->is_torch || torch_stream(plan, p->api, &stream);
    if (!told || (entered && plan->grant) || (p->asked && p->asked != (stream ? stream : 1))) {
        PyErr_Clear();
        status = leave(plan, entered, before);
        return status ? fail(plan, "leave", status, ctas, stream) : UNUSUAL;
    }
    PyObject *granted = NULL;
    if (plan->grant && !(granted = grant_scratch(plan, p->data, ctas, stream))) return FAILED;
    status = submit(plan, function, ctas, stream, p->data);
    int leaving = leave(plan, entered, before), result = DONE;
    if (status) result = fail(plan, "launch", status, ctas, stream);
    else if (leaving) result = fail(plan, "leave", leaving, ctas, stream);
    if (granted && !release_scratch(plan, granted, stream)) result = FAILED;
    return result;
}

/* A launch of any kind that a plan serves. */
static APART int launch_any(Launches *launches, const Call *call) {
    Plan *plan = launches->last;
    int choosing = !launches->fixed;
    if (call->device) {
        plan = NULL;
        for (int i = 0; i < launches->device_count; i++)
            if (launches->devices[i].key == call->device) plan = launches->devices[i].plan;
        choosing = 0;
    }
    if (!plan) return UNUSUAL;
    _Alignas(64) unsigned char data[MAX_PARAMETERS];
    for (int attempt = 0; attempt < 2; attempt++) {
        Packing p = {plan, data, 0, choosing && !attempt, 0, -1, 0, NULL, 0};
        memset(data, 0, plan->bytes);
        Plan *other = NULL;
        Py_INCREF(plan); /* Python code may run, and drop the plans */
        int found = pack(&p, call);
        if (found == DONE) {
            if (attempt && choosing) p.located = 1;
            found = queue(plan, call, &p, &other, launches);
        }
        if (found == DONE && !call->device && launches->last) launches->last = plan; /* not if dropped meanwhile */
        Py_DECREF(plan);
        if (found != ELSEWHERE) return found;
        for (int i = 0; !other && i < launches->count; i++)
            if (launches->plans[i]->ordinal == p.wanted) other = launches->plans[i];
        if (!other) return UNUSUAL;
        plan = other;
    }
    return UNUSUAL;
}

/*
 * The launch that nearly all are: on the device of the last one, which is the thread's own, each argument for a slot and
 * read by pack_usual. It decides nothing: what it does not do, launch_any does from the start. It is kept short, since
 * behind the driver's launch most of its instructions have to be fetched from a farther cache.
 */
static HOT int launch_usual(Launches *launches, const Call *call) {
    Plan *plan = launches->last;
    unsigned ctas[3];
    unsigned long long id;
    uint64_t stream = call->stream;
    int seen = 0;
    if (!plan || !plan->usual || call->count != plan->count || !count_ctas(plan, call->programs, ctas)) return UNUSUAL;
    _Alignas(64) unsigned char data[USUAL_BYTES];
    for (int i = 0; i < plan->bytes; i += 64) memset(data + i, 0, 64);
    int result = UNUSUAL, status;
    void *function;
    Py_INCREF(plan); /* torch's stream may be asked for in Python, and another thread run while the GIL is given up */
    if (pack_usual(plan, data, 0, call->args, call->count, &seen) != call->count) goto done;
    if ((status = identify(plan, &id))) {
        result = fail(plan, "identify", status, ctas, stream);
        goto done;
    }
    function = plan->entries[0].id == id ? plan->entries[0].function : entry_of(plan, id);
    if (!id || !function) goto done;
    if (seen & BY_TORCH && !call->has_stream && !torch_stream(plan, known.exchange, &stream)) {
        PyErr_Clear();
        goto done;
    }
    status = submit(plan, function, ctas, stream, data);
    result = status ? fail(plan, "launch", status, ctas, stream) : DONE;
done:
    Py_DECREF(plan);
    return result;
}

static inline int launch(Launches *launches, const Call *call) {
    if (!call->names && !call->device) {
        int found = launch_usual(launches, call);
        if (found != UNUSUAL) return found;
    }
    return launch_any(launches, call);
}

#endif
