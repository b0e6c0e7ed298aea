import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fault } from '@signalbox/faults/fault';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { Kafka, KafkaConfig, logCreator, logLevel, RetryOptions, SASLOptions } from 'kafkajs';
import { patchBrokerConnect } from './broker-connect.ts';
import { patchHeaderDecoding } from './header-decoding.ts';
import type { KafkaSettings } from './messaging-settings.ts';
import { patchRequestQueueTimer } from './request-queue-timer.ts';

// Loaded with require: OpenTelemetry's hook for CommonJS then sees it, whether or not the ESM loader hook is installed.
const require = createRequire(import.meta.url);

/** Retries inside kafkajs after a broker was lost: quickly, for ever. 250 ms between two tries at most. */
export const patientRetry: RetryOptions = {
  initialRetryTime: 50,
  maxRetryTime: 250,
  retries: Number.MAX_SAFE_INTEGER,
};

/** One try: the caller decides about the next one. */
export const singleTry: RetryOptions = { initialRetryTime: 50, maxRetryTime: 250, retries: 0 };

/** For an admin that asks a few questions and goes: its first one may meet a pool without brokers yet. */
export const fewTries: RetryOptions = { initialRetryTime: 50, maxRetryTime: 250, retries: 5 };

/**
 * A kafkajs client. Each producer, consumer and admin gets one of its own: consumers of one client share a cache of
 * committed offsets by group id, which then outlives a rebuilt consumer.
 */
export function createKafka(
  settings: KafkaSettings,
  clientId: string,
  log: Logger,
  retry: RetryOptions,
): Kafka {
  patchBrokerConnect();
  patchRequestQueueTimer();
  patchHeaderDecoding();
  const { Kafka: Client }: typeof import('kafkajs') = require('kafkajs');
  const { ssl, sasl } = security(settings);
  return new Client({
    clientId,
    brokers: [...settings.kafkaBootstrapServers],
    connectionTimeout: settings.kafkaConnectionTimeoutMs,
    requestTimeout: settings.kafkaRequestTimeoutMs,
    enforceRequestTimeout: true,
    retry,
    logLevel: warnLevel,
    logCreator: logInto(log),
    ...(ssl === undefined ? {} : { ssl }),
    ...(sasl === undefined ? {} : { sasl }),
  });
}

const warnLevel: logLevel.WARN = 2;

function security(settings: KafkaSettings): Pick<KafkaConfig, 'ssl'> & { sasl?: SASLOptions } {
  const { kafkaSecurityProtocol: protocol, kafkaSslCaFile: caFile } = settings;
  const ssl = protocol.endsWith('SSL')
    ? { ssl: caFile === undefined ? true : { ca: [readFileSync(caFile)] } }
    : {};
  if (!protocol.startsWith('SASL_')) return ssl;
  const { kafkaSaslUsername: username, kafkaSaslPassword: password } = settings;
  if (username === undefined || password === undefined) {
    throw fault(
      'CONFIG_INVALID',
      'KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD are required by the security protocol',
    );
  }
  return { ...ssl, sasl: { mechanism: mechanisms[settings.kafkaSaslMechanism], username, password } };
}

const mechanisms = {
  PLAIN: 'plain',
  'SCRAM-SHA-256': 'scram-sha-256',
  'SCRAM-SHA-512': 'scram-sha-512',
} as const;

// What kafkajs calls an error is mostly a try that it repeats; ours are logged where they are decided. Its retries while
// a broker is away are told once in ten seconds for each message, or they would fill the log.
function logInto(log: Logger): logCreator {
  const quietUntil = new Map<string, number>();
  return () =>
    ({ label, namespace, log: { message, ...rest } }) => {
      const now = Date.now();
      if ((quietUntil.get(message) ?? 0) > now) return;
      if (quietUntil.size > 200) quietUntil.clear();
      quietUntil.set(message, now + 10_000);
      const { broker, groupId, error } = rest;
      log.debug('kafka.client', { label, namespace, detail: message, broker, groupId, reason: error });
    };
}
