// Tries every system call of a table (standard input) in a process of its own, and prints those whose outcome isn't what the
// policy says: refused calls fail with the error that the table names, allowed ones come to any other end. A line of the
// table is a name, a number, the error (0 if allowed), and six arguments; with "i386" after the program's name the numbers
// are those of that ABI, and each call must kill.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

// What allowed calls that wait for something are left, in microseconds.
#define PATIENCE_US 100000

static long by_old_abi(long number)
{
#ifdef __x86_64__
	long result;

	__asm__ volatile("int $0x80" : "=a"(result) : "0"(number), "b"(-1L), "c"(-1L), "d"(-1L) : "memory");
	return result;
#else
	(void)number;
	return raise(SIGSYS);
#endif
}

// Gives how the call ended: its error, 0, or 256 and the signal that killed it.
static int outcome(int old_abi, long number, const long *a)
{
	pid_t child = fork();
	int status;

	if (child == -1)
		return 999;
	if (child == 0) {
		struct itimerval patience = {.it_value = {.tv_usec = PATIENCE_US}};

		setitimer(ITIMER_REAL, &patience, NULL);
		errno = 0;
		if (old_abi)
			_exit(by_old_abi(number) & 0x7f);
		_exit(syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) == -1 ? errno : 0);
	}
	while (waitpid(child, &status, 0) == -1)
		;
	return WIFSIGNALED(status) ? 256 + WTERMSIG(status) : WEXITSTATUS(status);
}

// What a filter might have answered.
static int is_refusal(int got)
{
	return got == EPERM || got == ENOSYS || got == EAFNOSUPPORT || got == 256 + SIGSYS;
}

static void say(const char *name, int got, int expected)
{
	char ended[64];

	if (got > 255)
		snprintf(ended, sizeof(ended), "killed by SIG%s", got == 999 ? "?" : sigabbrev_np(got - 256));
	else
		snprintf(ended, sizeof(ended), "%s", got ? strerrorname_np(got) : "done");
	printf("%s: %s, where %s is expected\n", name, ended,
	       expected > 255 ? "SIGSYS" : expected ? strerrorname_np(expected) : "anything but a refusal");
}

int main(int count, char **words)
{
	int old_abi = count > 1 && strcmp(words[1], "i386") == 0, expected, tried = 0;
	char name[64];
	long number, a[6];
	struct rlimit none = {0, 0};

	setrlimit(RLIMIT_CORE, &none);
	while (scanf("%63s %ld %d %ld %ld %ld %ld %ld %ld", name, &number, &expected, a, a + 1, a + 2, a + 3, a + 4, a + 5) == 9) {
		// A child must not print again what waits here.
		fflush(stdout);
		int got = outcome(old_abi, number, a);

		if (old_abi)
			expected = 256 + SIGSYS;
		if (expected ? got != expected : is_refusal(got))
			say(name, got, expected);
		tried++;
	}
	printf("%d tried\n", tried);
	return 0;
}
