/* A PKCS#11 library between a program and the library in SHIM_MODULE, for tests of what vendors' libraries do. It counts
 * logins in the file "logins" of the folder SHIM_DIR, and in C_Sign it crashes or hangs if that folder has a file "crash"
 * or "hang"; the file "crash" is removed before the crash. Built by the test: cc -shared -fPIC. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long rv;
/* CK_FUNCTION_LIST of PKCS #11 v2.40: a version, and 68 functions in the order of the specification. */
struct list {
	unsigned char version[2];
	void *function[68];
};
enum { GET_FUNCTION_LIST = 3, LOGIN = 18, SIGN = 43 };

static struct list mine, *real;

static const char *at(const char *name) {
	static __thread char path[4096];
	const char *dir = getenv("SHIM_DIR");
	snprintf(path, sizeof path, "%s/%s", dir ? dir : ".", name);
	return path;
}

static rv login(unsigned long session, unsigned long user, unsigned char *pin, unsigned long length) {
	int fd = open(at("logins"), O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (fd >= 0) {
		if (write(fd, "x", 1) != 1) abort();
		close(fd);
	}
	return ((rv(*)(unsigned long, unsigned long, unsigned char *, unsigned long))real->function[LOGIN])(
		session, user, pin, length);
}

static rv sign(unsigned long session, unsigned char *data, unsigned long length, unsigned char *out, unsigned long *n) {
	if (unlink(at("crash")) == 0) *(volatile int *)0 = 1;
	while (access(at("hang"), F_OK) == 0) usleep(10000);
	return ((rv(*)(unsigned long, unsigned char *, unsigned long, unsigned char *, unsigned long *))real->function[SIGN])(
		session, data, length, out, n);
}

rv C_GetFunctionList(struct list **out) {
	if (!real) {
		void *library = dlopen(getenv("SHIM_MODULE"), RTLD_NOW);
		rv (*get)(struct list **) = library ? (rv(*)(struct list **))dlsym(library, "C_GetFunctionList") : 0;
		if (!get || get(&real) != 0) return 5; /* CKR_GENERAL_ERROR */
		memcpy(&mine, real, sizeof mine);
		mine.function[GET_FUNCTION_LIST] = (void *)C_GetFunctionList;
		mine.function[LOGIN] = (void *)login;
		mine.function[SIGN] = (void *)sign;
	}
	*out = &mine;
	return 0;
}
