import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadSettings } from '@signalbox/config/settings';
import { givenSources } from '@signalbox/config/sources';
import { expect, it } from 'vitest';
import { migrateSettings, stackSettings } from './settings.ts';

it('talks to the stack on this machine with the seeded key, in dev alone', () => {
  const seedData = join(import.meta.dirname, '../../../dev/src/seed-data.ts');
  const dev = loadSettings('cli', stackSettings, givenSources({ ENVIRONMENT: 'dev' }));
  expect(readFileSync(seedData, 'utf8')).toContain(dev.apiKey);
  expect(dev.gatewayUrl).toBe('http://127.0.0.1:8010');
  const prod = loadSettings('cli', stackSettings, givenSources({ ENVIRONMENT: 'prod' }));
  expect(prod.apiKey).toBeUndefined();
});

it('migrates as the owner; the service login is made where it is given', () => {
  const given = { KAFKA_BOOTSTRAP_SERVERS: 'k:9092', DATABASE_OWNER_URL: 'postgres://o@h/d' };
  expect(loadSettings('cli', migrateSettings, givenSources(given)).databaseUrl).toBeUndefined();
  expect(() => loadSettings('cli', migrateSettings, givenSources({}))).toThrow();
});
