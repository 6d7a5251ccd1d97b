/* SPDX-License-Identifier: MIT */
/* printf and scanf in all their forms, and streams as far as they go without files. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

static const double doubles[] = {
    0.0,      -0.0, 1.0, -1.5,     3.14159265358979,       1e10, 1e-10, 123456789.125, 1e100,   1e-300, 5e-324,
    0.1,      2.5,  3.5, 99999.95, 1.7976931348623157e308, 1e15, 1e16,  1e17,          0.00001, 0.0001, INFINITY,
    -INFINITY};

int main(void) {
    for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++) {
        double x = doubles[i];
        printf("%f|%e|%g|%.0f|%.3g|%#.0e|%+08.2f|% g|%-12.4e|%.17g|%A\n", x, x, x, x, x, x, x, x, x, x,
               fabs(x) < 1e-307 ? 1.0 : x);
        printf("%Lf %Lg %a\n", (long double)x, (long double)x, 1.0);
    }
    printf("%d %i %u %x %X %o %#x %#o %c %s %%\n", -5, 7, 42u, 0xbeefu, 0xBEEFu, 8u, 255u, 8u, 'z', "text");
    printf("[%5d][%-5d][%05d][%+d][% d][%.3d][%8.3d][%-8.3d]\n", 42, 42, 42, 42, 42, 7, 7, 7);
    printf("[%10s][%-10s][%.2s][%*s][%-*s][%.*s]\n", "right", "left", "cut", 6, "w", 6, "w", 3, "precise");
    printf("%hhd %hd %ld %lld %jd %zd %td\n", (signed char)-1, (short)-2, -3L, -4LL, (intmax_t)-5, (ssize_t)6,
           (ptrdiff_t)-7);
    printf("%hhu %hu %lu %llu\n", (unsigned char)255, (unsigned short)65535, 4294967295ul, 18446744073709551615ull);
    printf("%lld %llx\n", INT64_MIN, UINT64_MAX);
    int written;
    printf("abc%ndef\n", &written);
    char text[16];
    printf("%d <%s>", snprintf(text, sizeof text, "%s-%d", "a long string here", 12), text);
    printf(" %d %d\n", snprintf(NULL, 0, "%d", 12345), sprintf(text, "%.2f", 2.675));

    int a = 0, b = 0, n;
    unsigned hex = 0;
    float f = 0;
    double d = 0;
    char word[16] = "", set[16] = "", c = 0;
    n = sscanf("12 -7 0xfe 2.5 1e3 hello abc123 Q", "%d %i %x %f %lf %15s %[a-z]123 %c", &a, &b, &hex, &f, &d, word,
               set, &c);
    printf("%d: %d %d %x %g %g %s %s %c\n", n, a, b, hex, (double)f, d, word, set, c);
    printf("%d %d\n", sscanf("x", "%d", &a), sscanf("", "%d", &a));
    n = sscanf("12:34", "%d:%*d%n", &a, &b);
    printf("%d %d %d\n", n, a, b);

    fputs("fputs ", stdout);
    putchar('c');
    fputc('d', stdout);
    fwrite(" fwrite\n", 1, 8, stdout);
    puts("puts");
    fprintf(stderr, "to stderr %d\n", 1);
    perror("perror");

    char *memory = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&memory, &size);
    fprintf(stream, "into memory %d", 5);
    fclose(stream);
    printf("%s %zu\n", memory, size);
    stream = fmemopen(memory, size, "r");
    char line[32];
    fscanf(stream, "%s", line);
    ungetc('#', stream);
    int first = getc(stream), second = getc(stream);
    printf("%s %c%c %ld\n", line, first, second, ftell(stream));
    fclose(stream);
    free(memory);

    while (fgets(line, sizeof line, stdin))
        printf("line: %s", line);
    printf("%d %d\n", feof(stdin) != 0, ferror(stdin));
    printf("%ls %lc\n", L"wide", (wint_t)L'w');
    wchar_t wide[8];
    size_t length = mbstowcs(wide, "abc", 8);
    printf("%zu %d\n", length, wcscmp(wide, L"abc"));
    setvbuf(stdout, NULL, _IOFBF, 512);
    printf("buffered, flushed at exit");
    return 0;
}
