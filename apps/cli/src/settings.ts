import { kafkaSettings } from '@signalbox/config/kafka-settings';
import { serviceSettings } from '@signalbox/config/service-settings';
import { loadSettings, type Shape, secret, url } from '@signalbox/config/settings';
import { processSources } from '@signalbox/config/sources';

/** Where the commands that look at a running stack find it. */
export const stackSettings = {
  gatewayUrl: url({
    env: 'GATEWAY_URL',
    doc: 'Base address of the gateway that `signalbox chat` and `health` talk to.',
    default: 'http://127.0.0.1:8010',
  }),
  zipkinUrl: url({
    env: 'ZIPKIN_URL',
    doc: 'Base address of the Zipkin that `signalbox trace` asks.',
    default: 'http://127.0.0.1:9411',
  }),
  apiKey: secret({
    env: 'API_KEY',
    doc: 'API key that `signalbox chat` sends; in dev the seeded one of acme.',
    optional: true,
    // What `npm run seed` writes, so that `npm run chat` works as it stands; refused outside of dev. A test holds it.
    profiles: { dev: 'sk_dev_acme00000001_for-development-only-not-a-secret' },
  }),
};

/** What `signalbox migrate` needs: the role that owns the tables, and the broker. */
export const migrateSettings = {
  ...kafkaSettings,
  databaseOwnerUrl: url({
    env: 'DATABASE_OWNER_URL',
    doc: 'Postgres as the role that owns the tables; read by `signalbox migrate`, `dlq` and `memory`, no service has it.',
    schemes: ['postgres', 'postgresql'],
  }),
  databaseUrl: url({
    env: 'DATABASE_URL',
    doc: 'Postgres as the service role; migrate makes the login of it, where given.',
    schemes: ['postgres', 'postgresql'],
    optional: true,
  }),
};

/** What `signalbox dlq` and `signalbox memory` need: the role that owns the tables or a member of signalbox_queue, and where traces go. */
export const operatorSettings = {
  databaseOwnerUrl: migrateSettings.databaseOwnerUrl,
  otlpEndpoint: serviceSettings.otlpEndpoint,
};

/**
 * Reads settings for a command. A person at a terminal names no profile: the addresses of the embedded stack, which
 * only dev reads from its state file, are what is meant unless the environment says otherwise.
 */
export function commandSettings<S extends Shape>(shape: S) {
  const sources = processSources();
  return loadSettings('cli', shape, {
    ...sources,
    environment: { ENVIRONMENT: 'dev', ...sources.environment },
  });
}
