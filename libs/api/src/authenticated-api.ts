import { createRateLimit } from '@signalbox/http/rate-limit';
import type { HttpServer } from '@signalbox/http/types';
import { createApiKeys } from '@signalbox/identity/api-keys';
import type { Queryable } from '@signalbox/postgres/database';
import type { Redis } from '@signalbox/redis/redis';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import { requireCaller } from './request-caller.ts';

export interface AuthenticatedApiParts {
  readonly settings: {
    readonly environment: string;
    readonly apiKeyHeader: string;
    /** Requests of a tenant in a window; 0: no limit. */
    readonly rateLimitMax: number;
    readonly rateLimitWindowMs: number;
  };
  readonly database: Queryable;
  readonly redis: Redis;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Names the rate limit in Redis: services with different names count apart. */
  readonly limitName: string;
}

/**
 * The scope of a server in which every route asks for a credential, and counts against the tenant's rate limit, before its
 * body is read. Refusals are logged as auth.refused and counted by auth_refused_total. Faults: UNAUTHENTICATED,
 * RATE_LIMITED, DATABASE_UNAVAILABLE.
 */
export function authenticatedApi(
  server: HttpServer,
  parts: AuthenticatedApiParts,
  addRoutes: (api: HttpServer) => void,
): void {
  const { settings, database, redis, log, metrics, limitName } = parts;
  const { environment, apiKeyHeader, rateLimitMax, rateLimitWindowMs } = settings;
  const apiKeys = createApiKeys({ database, environment, header: apiKeyHeader });
  const rateLimit =
    rateLimitMax === 0
      ? undefined
      : createRateLimit({ limit: rateLimitMax, windowMs: rateLimitWindowMs, name: limitName, redis });
  const refusals = metrics.counter('auth_refused_total', {
    help: 'Requests without an accepted credential, by reason.',
    labels: ['reason'],
  });
  server.register(async (api) => {
    requireCaller(api, {
      authenticate: (headers) => apiKeys.authenticate(headers),
      rateLimit,
      refusals,
      log,
    });
    addRoutes(api);
  });
}
