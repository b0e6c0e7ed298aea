import { newId } from '@signalbox/contracts/ids';
import { type Messaging, openMessaging } from '@signalbox/messaging/messaging';
import { silentLog as log, silentMetrics as metrics } from '@signalbox/telemetry/silent';
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
  const messaging = openMessaging({
    settings: fixture.settings,
    instanceId: newId(),
    service,
    database: fixture.db,
    log,
    metrics,
  });
  return { messaging, service, log, metrics };
}
