/* Names that the host's C library does not have, so that one program holds both: included before all else where the
 * runtime is compiled, and after the host's headers where it is compared. */
#define COMPARED(F)                                                                                                    \
    F(bcmp) F(memchr) F(memcmp) F(memcpy) F(memmove) F(memset) F(snprintf) F(strchr) F(strchrnul) F(strcmp) F(strcpy)  \
    F(strcspn) F(strlen) F(strncmp) F(strncpy) F(strrchr) F(strsep) F(strspn) F(strstr)

#ifndef RUNTIME_COMPARES
#define bcmp runtime_bcmp
#define dprintf runtime_dprintf
#define memchr runtime_memchr
#define memcmp runtime_memcmp
#define memcpy runtime_memcpy
#define memmove runtime_memmove
#define memset runtime_memset
#define snprintf runtime_snprintf
#define strchr runtime_strchr
#define strchrnul runtime_strchrnul
#define strcmp runtime_strcmp
#define strcpy runtime_strcpy
#define strcspn runtime_strcspn
#define strlen runtime_strlen
#define strncmp runtime_strncmp
#define strncpy runtime_strncpy
#define strrchr runtime_strrchr
#define strsep runtime_strsep
#define strspn runtime_strspn
#define strstr runtime_strstr
#define vsnprintf runtime_vsnprintf
#endif
