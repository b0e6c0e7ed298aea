import { newId } from '@signalbox/contracts/ids';

const sane = /^[A-Za-z0-9._-]{1,128}$/;

/** The caller's X-Request-ID when it is 1–128 of `[A-Za-z0-9._-]`, else a new id: it goes into logs, headers and rows. */
export function requestIdFrom(header: string | string[] | undefined): string {
  return typeof header === 'string' && sane.test(header) ? header : newId();
}
