import { databaseSettings } from '@signalbox/config/database-settings';
import { kafkaSettings } from '@signalbox/config/kafka-settings';
import { outboxSettings } from '@signalbox/config/outbox-settings';
import { serviceSettings } from '@signalbox/config/service-settings';

export const outboxSyncSettings = {
  ...serviceSettings,
  ...databaseSettings,
  ...kafkaSettings,
  ...outboxSettings,
};
