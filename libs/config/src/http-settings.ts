import { flag, integer, list, text } from './settings.ts';

/** What a service that answers callers has on top of the health routes. */
export const httpSettings = {
  corsOrigins: list({
    env: 'CORS_ORIGINS',
    doc: 'Origins whose pages may call, as scheme://host:port; * is for dev alone.',
    default: [],
    pattern: /^(\*|https?:\/\/[^\s/?#]+)$/,
    devOnly: (origins) => (origins.includes('*') ? 'CORS *: list the origins' : undefined),
  }),
  apiKeyHeader: text({
    env: 'API_KEY_HEADER',
    doc: 'Header that carries an API key, besides Authorization: Bearer.',
    default: 'X-API-Key',
    pattern: /^[A-Za-z0-9-]+$/,
    max: 64,
  }),
  bodyLimitBytes: integer({
    env: 'BODY_LIMIT_BYTES',
    doc: 'Largest request body; past it 413.',
    default: 1_048_576,
    min: 1_024,
    max: 67_108_864,
  }),
  rateLimitMax: integer({
    env: 'RATE_LIMIT_MAX',
    doc: 'Requests of one credential within the window; past it 429. 0 turns it off.',
    default: 6_000,
  }),
  rateLimitWindowMs: integer({
    env: 'RATE_LIMIT_WINDOW_MS',
    doc: 'Window of the rate limit.',
    default: 60_000,
    min: 1_000,
    max: 3_600_000,
  }),
  requestTimeoutMs: integer({
    env: 'REQUEST_TIMEOUT_MS',
    doc: 'Bound of receiving one request.',
    default: 30_000,
    min: 1_000,
    max: 600_000,
  }),
  readyGraceMs: integer({
    env: 'READY_GRACE_MS',
    doc: 'How long a gateway stays ready without Kafka or Redis.',
    default: 60_000,
  }),
  trustProxy: flag({
    env: 'TRUST_PROXY',
    doc: 'Whether X-Forwarded-For and -Proto come from a proxy of yours. HSTS is sent behind TLS only.',
    default: false,
  }),
  httpClientMaxConnections: integer({
    env: 'HTTP_CLIENT_MAX_CONNECTIONS',
    doc: 'Connections to each outside system.',
    default: 50,
    min: 1,
    max: 10_000,
  }),
};
