/* Hands kernel files, named on standard input, to Xen's own domain builder for a PVH guest, and lets it log. No Xen is needed. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xenctrl.h>
#include <xenguest.h>
#include <xentoollog.h>

int main(void)
{
    char path[4096];
    xentoollog_logger *logger = (xentoollog_logger *)xtl_createlogger_stdiostream(stdout, XTL_DETAIL, 0);

    while (fgets(path, sizeof path, stdin)) {
        path[strcspn(path, "\n")] = 0;
        FILE *file = fopen(path, "rb");
        if (!file || fseek(file, 0, SEEK_END))
            return 1;
        long size = ftell(file);
        void *kernel = malloc(size + 1);
        rewind(file);
        if (!kernel || fread(kernel, 1, size, file) != (size_t)size)
            return 1;
        fclose(file);

        xc_interface *xch = xc_interface_open(logger, logger, XC_OPENFLAG_DUMMY);
        struct xc_dom_image *dom = xc_dom_allocate(xch, "", "");
        dom->container_type = XC_DOM_HVM_CONTAINER;
        printf("FILE %s\n", path);
        if (!xc_dom_kernel_mem(dom, kernel, size))
            xc_dom_parse_image(dom);
        fflush(stdout);
        xc_dom_release(dom);
        xc_interface_close(xch);
        free(kernel);
    }
    return 0;
}
