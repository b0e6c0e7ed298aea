import { fault } from '@signalbox/faults/fault';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { FastifyReply, FastifyRequest } from 'fastify';

export interface CorsOptions {
  /** Origins that may call from a browser (`https://app.example.com`); `*` for any (settings refuse it in prod). */
  readonly origins: readonly string[];
  /** Name of the header that carries the API key. */
  readonly apiKeyHeader: string;
  readonly log: Logger;
}

const methods = 'GET, HEAD, POST, PUT, PATCH, DELETE';
/** Reply headers that a page's script may read. */
const exposed =
  'Location, X-Request-ID, Retry-After, Idempotency-Replayed, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, traceparent';
const preflightSeconds = '600';

/**
 * Answers who may call from a browser. A request without Origin is no browser's cross-site call and passes; one of this
 * server's own pages (/docs) passes; one from the list passes with the headers that let the page read the reply; any
 * other is refused with ORIGIN_REFUSED and a `cors.refused` record, before authentication and before any body is read.
 * The same check guards WebSocket upgrades, which browsers send cross-site without asking.
 *
 * No credentials mode: keys travel in headers that a page must set itself, cookies do not exist here.
 */
export function createCors({ origins, apiKeyHeader, log }: CorsOptions) {
  const listed = new Set(origins);
  const any = listed.has('*');
  const requestHeaders = [
    'Authorization',
    'Content-Type',
    'Idempotency-Key',
    'Last-Event-ID',
    'X-Request-ID',
    'traceparent',
    'tracestate',
    apiKeyHeader,
  ].join(', ');

  /** True when the request was a preflight and is answered. Throws ORIGIN_REFUSED. */
  return function checkOrigin(request: FastifyRequest, reply: FastifyReply): boolean {
    const { origin } = request.headers;
    if (listed.size > 0) reply.header('vary', 'Origin');
    if (origin === undefined) return false;
    if (!any && !listed.has(origin)) {
      if (isOwnOrigin(origin, request.headers.host)) return false;
      log.warning('cors.refused', {
        origin: origin.slice(0, 200),
        ip: request.ip,
        route: request.routeOptions.url ?? 'unmatched',
        method: request.method,
      });
      throw fault('ORIGIN_REFUSED', 'this origin may not call from a browser');
    }
    reply.header('access-control-allow-origin', any ? '*' : origin);
    reply.header('cross-origin-resource-policy', 'cross-origin');
    reply.header('access-control-expose-headers', exposed);
    if (request.method !== 'OPTIONS' || request.headers['access-control-request-method'] === undefined)
      return false;
    reply.header('access-control-allow-methods', methods);
    reply.header('access-control-allow-headers', requestHeaders);
    reply.header('access-control-max-age', preflightSeconds);
    reply.code(204).send();
    return true;
  };
}

/** Whether a page of this very server calls: its origin is `http(s)://` and the host that was asked for. */
function isOwnOrigin(origin: string, host: string | undefined): boolean {
  return host !== undefined && (origin === `http://${host}` || origin === `https://${host}`);
}
