// Makes every socket of a table (standard input) and prints those whose outcome isn't what the policy says, then which
// families and types could be had. A line of the table is a family, a type, a protocol, and the error (0 if allowed).
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char had[64][16];

int main(void)
{
	int family, type, protocol, expected, tried = 0;

	while (scanf("%d %d %d %d", &family, &type, &protocol, &expected) == 4) {
		int fd = socket(family, type, protocol), got = fd == -1 ? errno : 0;

		if (fd != -1) {
			had[family][type & 0xf] = 1;
			close(fd);
		}
		// What the policy lets pass the kernel may still not have: of that it says another thing.
		if (expected ? got != expected : got == EPERM || got == ENOSYS || got == EAFNOSUPPORT)
			printf("socket(%d, %#x, %d): %s, where %s is expected\n", family, type, protocol,
			       got ? strerrorname_np(got) : "done", expected ? strerrorname_np(expected) : "a socket");
		tried++;
	}
	for (family = 0; family < 64; family++)
		for (type = 0; type < 16; type++)
			if (had[family][type])
				printf("%d/%d ", family, type);
	printf("of %d\n", tried);
	return 0;
}
