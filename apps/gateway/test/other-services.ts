import { kafkaSettings } from '@signalbox/config/kafka-settings';
import { loadSettings } from '@signalbox/config/settings';
import { givenSources } from '@signalbox/config/sources';
import { newId } from '@signalbox/contracts/ids';
import { type Messaging, openMessaging } from '@signalbox/messaging/messaging';
import { silentLog as log, silentMetrics as metrics } from '@signalbox/telemetry/silent';
import { testInfra } from '@signalbox/testkit/infra';
import type { GatewayFixture } from './gateway-fixture.ts';

/** What stands in for another service takes: its own connection to the broker, its own groups. */
export interface OtherService {
  readonly messaging: Messaging;
  readonly service: string;
  readonly log: typeof log;
  readonly metrics: typeof metrics;
}

/** Another service of the fixture's topics: it asks, answers and reads as the real one would. */
export function otherService(fixture: GatewayFixture, service: string): OtherService {
  const settings = loadSettings(
    service,
    kafkaSettings,
    givenSources({
      KAFKA_BOOTSTRAP_SERVERS: testInfra().kafka,
      KAFKA_TOPIC_PREFIX: fixture.topics.prefix,
      KAFKA_GROUP_ID: fixture.topics.prefix,
    }),
  );
  const messaging = openMessaging({
    settings,
    instanceId: newId(),
    service,
    database: fixture.db,
    log,
    metrics,
  });
  return { messaging, service, log, metrics };
}
