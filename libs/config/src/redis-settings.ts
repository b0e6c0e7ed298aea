import { integer, text, url } from './settings.ts';

/** The connection of a service to Redis. */
export const redisSettings = {
  redisUrl: url({ env: 'REDIS_URL', doc: 'Redis.', schemes: ['redis', 'rediss'] }),
  redisPoolSize: integer({
    env: 'REDIS_POOL_SIZE',
    doc: 'Most connections of one process; commands share few, as ioredis pipelines.',
    default: 10,
    min: 1,
    max: 500,
  }),
  redisKeyPrefix: text({
    env: 'REDIS_KEY_PREFIX',
    doc: 'Put before every key, for stacks that share a Redis.',
    default: '',
    min: 0,
    max: 64,
  }),
  redisConnectTimeoutMs: integer({
    env: 'REDIS_CONNECT_TIMEOUT_MS',
    doc: 'Bound of opening a connection.',
    default: 2_000,
    min: 10,
    max: 60_000,
  }),
  redisCommandTimeoutMs: integer({
    env: 'REDIS_COMMAND_TIMEOUT_MS',
    doc: 'Bound of one command before REDIS_UNAVAILABLE.',
    default: 1_000,
    min: 10,
    max: 60_000,
  }),
};
