/* Loaded before Orthanc: gives its threads stacks of a megabyte. Orthanc 1.10.1 of Debian decodes in threads of its web
 * server, which have 100 KB; GDCM's JPEG 2000 decoder puts 130 KB on the stack, and the server ends by a segmentation
 * fault as soon as nothing happens to lie below. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>

enum { LEAST_BYTES = 1 << 20 };

int pthread_attr_setstacksize(pthread_attr_t *attributes, size_t bytes)
{
    int (*set)(pthread_attr_t *, size_t) =
        (int (*)(pthread_attr_t *, size_t))dlsym(RTLD_NEXT, "pthread_attr_setstacksize");
    return set(attributes, bytes < LEAST_BYTES ? LEAST_BYTES : bytes);
}
