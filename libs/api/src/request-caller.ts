import { fault, isFault } from '@signalbox/faults/fault';
import { identifyRequest } from '@signalbox/http/observe-request';
import type { RateLimit } from '@signalbox/http/rate-limit';
import type { FastifyReply, FastifyRequest, HttpServer } from '@signalbox/http/types';
import type { Counter, Logger } from '@signalbox/telemetry/telemetry';

/** Who calls, as the credential alone says. */
export interface Caller {
  readonly tenant: string;
  readonly keyId: string;
  readonly scopes: readonly string[];
}

export interface CallerOptions {
  authenticate(headers: FastifyRequest['headers']): Promise<Caller>;
  /** Undefined: no limit. */
  readonly rateLimit: RateLimit | undefined;
  /** auth_refused_total. */
  readonly refusals: Counter;
  readonly log: Logger;
}

const callers = new WeakMap<FastifyRequest, Caller>();

/** Whose request this is. Only inside routes that `requireCaller` guards. */
export function callerOf(request: FastifyRequest): Caller {
  const caller = callers.get(request);
  if (caller === undefined) throw fault('INTERNAL_ERROR', 'a route without a caller');
  return caller;
}

/**
 * Every route of this scope asks for a credential, before its body is read: UNAUTHENTICATED without one, RATE_LIMITED
 * past the tenant's limit.
 */
export function requireCaller(server: HttpServer, options: CallerOptions): void {
  const { authenticate, rateLimit, refusals, log } = options;
  server.addHook('onRequest', async (request: FastifyRequest, reply: FastifyReply) => {
    try {
      const caller = await authenticate(request.headers);
      callers.set(request, caller);
      identifyRequest(request, { tenantId: caller.tenant });
    } catch (error) {
      if (isFault(error, 'UNAUTHENTICATED')) {
        const reason = error.details?.reason;
        refusals.add(1, { reason: typeof reason === 'string' ? reason : 'unauthenticated' });
        log.warning('auth.refused', {
          ip: request.ip,
          userAgent: request.headers['user-agent']?.slice(0, 200),
          route: request.routeOptions.url,
          reason,
        });
      }
      throw error;
    }
    rateLimit?.enforce(reply, callerOf(request).tenant);
  });
}
