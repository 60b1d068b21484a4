/* A libnvidia-ml of our own for tests: cards whose figures are read from the text file `figures` beside the library, one
 * `key value...` a line. Only what the agent calls. Written from the public description of the interface.
 *
 *   cards N | uuid I TEXT | energy I MILLIJOULES | power I MILLIWATTS | busy I PERCENT | process I PID SM TIMESTAMP
 *
 * A key that is missing is not supported, as on old cards. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7 };
typedef struct card { unsigned index; } card;
typedef struct { unsigned gpu, memory; } utilization;
typedef struct { unsigned pid; unsigned long long at; unsigned sm, mem, enc, dec; } sample;

static card cards[16];

/* Calls `each` on the values of every line that begins with `key` and, when it is not negative, the card's number. */
static int lines(const char *key, int index, void (*each)(const char *rest, void *to), void *to) {
    char path[1024] = "", line[512], word[64];
    Dl_info self;
    if (dladdr((void *)cards, &self) && self.dli_fname) snprintf(path, sizeof path - 16, "%s", self.dli_fname);
    char *slash = strrchr(path, '/');
    strcpy(slash ? slash + 1 : path, "figures");
    FILE *file = fopen(path, "r");
    int found = 0, used;
    unsigned number;
    while (file && fgets(line, sizeof line, file)) {
        const char *rest = line;
        if (sscanf(rest, "%63s%n", word, &used) != 1 || strcmp(word, key) != 0) continue;
        rest += used;
        if (index >= 0) {
            if (sscanf(rest, "%u%n", &number, &used) != 1 || number != (unsigned)index) continue;
            rest += used;
        }
        each(rest, to);
        found++;
    }
    if (file) fclose(file);
    return found;
}
static void number(const char *rest, void *to) { *(unsigned long long *)to = strtoull(rest, NULL, 10); }
static void text(const char *rest, void *to) { sscanf(rest, "%95s", (char *)to); }
static int figure(const char *key, card *device, unsigned long long *to) {
    return lines(key, (int)device->index, number, to) ? SUCCESS : UNSUPPORTED;
}

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "stub"; }
int nvmlSystemGetDriverVersion(char *to, unsigned size) { snprintf(to, size, "570.00.00"); return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned *to) {
    unsigned long long count = 0;
    lines("cards", -1, number, &count);
    *to = (unsigned)count;
    return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, card **to) {
    unsigned count;
    nvmlDeviceGetCount_v2(&count);
    if (index >= count || index >= 16) return INVALID;
    cards[index].index = index;
    *to = &cards[index];
    return SUCCESS;
}
int nvmlDeviceGetUUID(card *device, char *to, unsigned size) {
    char name[96] = "";
    if (!lines("uuid", (int)device->index, text, name)) return UNSUPPORTED;
    snprintf(to, size, "%s", name);
    return SUCCESS;
}
int nvmlDeviceGetName(card *device, char *to, unsigned size) {
    (void)device;
    snprintf(to, size, "Stub Card");
    return SUCCESS;
}
int nvmlDeviceGetTotalEnergyConsumption(card *device, unsigned long long *to) { return figure("energy", device, to); }
int nvmlDeviceGetPowerUsage(card *device, unsigned *to) {
    unsigned long long watts;
    int code = figure("power", device, &watts);
    if (code == SUCCESS) *to = (unsigned)watts;
    return code;
}
int nvmlDeviceGetUtilizationRates(card *device, utilization *to) {
    unsigned long long busy = 0;
    int code = figure("busy", device, &busy);
    to->gpu = (unsigned)busy;
    to->memory = 0;
    return code;
}
struct samples { sample list[32]; unsigned count; unsigned long long after; };
static void take(const char *rest, void *to) {
    struct samples *all = to;
    sample one = {0};
    if (all->count < 32 && sscanf(rest, "%u %u %llu", &one.pid, &one.sm, &one.at) == 3 && one.at > all->after)
        all->list[all->count++] = one;
}
int nvmlDeviceGetProcessUtilization(card *device, sample *to, unsigned *count, unsigned long long after) {
    struct samples all = {.after = after};
    lines("process", (int)device->index, take, &all);
    if (all.count == 0) return NOT_FOUND;
    if (!to || *count < all.count) {
        *count = all.count;
        return TOO_SMALL;
    }
    memcpy(to, all.list, all.count * sizeof(sample));
    *count = all.count;
    return SUCCESS;
}
